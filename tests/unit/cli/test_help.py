"""The help texts of all commands: readable on each terminal, and with examples that work."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest
import typer

from cognigy_async.cli.app import app

ROOT = typer.main.get_command(app)


def paths() -> Iterator[list[str]]:
    for name, command in ROOT.commands.items():  # type: ignore[attr-defined]
        yield [name]
        yield from ([name, inner] for inner in getattr(command, "commands", ()))


COMMANDS = [[], *paths()]


class Help:
    """The help texts, as on terminals of different widths."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, path: list[str], option: str = "--help", columns: int = 80) -> str:
        self._monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as exited:
            app([*path, option], prog_name="cognigy-async")
        out, err = self._capsys.readouterr()
        assert (exited.value.code, err) == (0, "")
        return out


@pytest.fixture(name="help_of")
def _help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Help:
    return Help(monkeypatch, capsys)


def test_the_commands_are_found() -> None:
    assert ["bulk", "run"] in COMMANDS
    assert ["audit", "verify"] in COMMANDS
    assert ["init"] in COMMANDS


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_the_short_option_prints_the_same_help(help_of: Help, path: list[str]) -> None:
    assert help_of(path, "-h") == help_of(path)


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_help_text_fits_on_the_terminal(help_of: Help, path: list[str], columns: int) -> None:
    text = help_of(path, columns=columns)
    assert max(map(len, text.splitlines())) <= min(columns, 80)
    cut_off = [line for line in text.splitlines()[1:] if line.endswith("...")]
    assert cut_off == []


@pytest.mark.parametrize("path", [path for path in COMMANDS if path], ids=" ".join)
def test_a_help_text_ends_with_examples_of_the_command(help_of: Help, path: list[str]) -> None:
    text = help_of(path, columns=60)
    if path in (["audit"], ["bulk"], ["dialog"], ["job"], ["outbox"]):
        assert "Commands:" in text
        return
    _, _, end = text.rpartition("\n  Example")
    examples = end.split(":\n", 1)[1].splitlines()
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[: 1 + len(path)] == ["cognigy-async", *path]
        # An option that is unknown is an error in spite of the help.
        assert help_of(words[1:], columns=60) == text
