"""Plots and tables of results, for the page that shows them.

    python benchmarks/plots.py docs/benchmarks    # reads its *.json, writes *.svg and the page

The files are those that `--json` of the other programs writes, such as `throughput.json` and
`overhead-3.11.json`; missing ones are left out. The tables and the sentences for a choice go into
`benchmarks.md` beside the folder, each between two comments. Needs the extra `report`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.charts import CHARTS
from harness.page import BEGIN_CHOICE, END_CHOICE, choice, inserted, read, tables


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--page", type=Path, metavar="FILE", help="by default FOLDER.md")
    options = parser.parse_args()
    folder: Path = options.folder
    page: Path = options.page or folder.with_name(f"{folder.name}.md")
    found = read(folder)
    plots: dict[str, list[str]] = {name: [] for name in CHARTS}
    for name, charts in CHARTS.items():
        for draw in charts if name in found else ():
            if text := draw(found[name]):
                path = folder / f"{draw.__name__.replace('_', '-')}.svg"
                path.write_text(text, encoding="utf-8")
                plots[name].append(path.name)
    text = page.read_text(encoding="utf-8")
    text = inserted(text, choice(found, folder.name), (BEGIN_CHOICE, END_CHOICE))
    page.write_text(inserted(text, tables(found, plots, folder.name)), encoding="utf-8")


if __name__ == "__main__":
    main()
