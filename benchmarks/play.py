"""One run of one contestant, for the other programs; prints as JSON what it measured.

python benchmarks/play.py CONTESTANT WORK [--core N]    # WORK is JSON
"""

from __future__ import annotations

import argparse
import json
import os

from harness.contestants import CONTESTANTS
from harness.work import Work


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("work", type=Work.from_json)
    parser.add_argument("--core", type=int)
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    print(json.dumps(CONTESTANTS[options.contestant].run(options.work)))


if __name__ == "__main__":
    main()
