"""`python -m mmdata.completion`: what a shell needs to complete the commands `mmdata` and `mmtrain`.

The script is made once, by shtab, from the commands' own parsers; completing runs no Python.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from unittest import mock

from mmdata import pointer, unread
from mmdata.errors import RunError

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = {"FILE", "RUN|FOLDER"}
_FOLDERS = {"DIR", "FOLDER", "RUN", "A", "B"}
_PATHS = {"spec", "config", "dataset", "stream", "run", "output", "base", "html"}


class _Parser(Exception):
    """Carries a parser out of the command that has made it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser)
        self.parser = parser


def parsers(package: str) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, what it is for, and parser of each command of a package, as its `main` makes it."""
    listed: Mapping[str, str] = importlib.import_module(f"{package}.__main__").COMMANDS
    for name, about in listed.items():
        yield name, about, parser_of(importlib.import_module(f"{package}.{name}").main)


def parser_of(main: object) -> argparse.ArgumentParser:
    """The parser that a command's `main` parses its arguments with; nothing else of it is run."""

    def caught(self: argparse.ArgumentParser, *_: object) -> None:
        raise _Parser(self)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught), contextlib.suppress(SystemExit):
        try:
            main([])  # type: ignore[operator]
        except _Parser as found:
            return found.parser
    raise AssertionError(f"{main} parses no arguments")


def script(package: str, shell: str) -> str:
    """The completion of `package`'s command for a shell. Raises RunError where shtab is not installed."""
    try:
        import shtab
    except ImportError as error:
        raise RunError(
            f"completion is written by shtab, which is not installed: {sys.executable} -m pip install 'shtab>=1.13'",
            reason="package_missing",
        ) from error
    whole = argparse.ArgumentParser(prog=package)
    commands = whole.add_subparsers(title="commands", dest="command")
    for name, about, parser in parsers(package):
        made = commands.add_parser(name, parents=[parser], add_help=False, help=about, description=about)
        for action in made._actions:
            _hint(action, shtab)
    text: str = shtab.complete(whole, shell=shell)
    return text


def _hint(action: argparse.Action, shtab: object) -> None:
    """Say that an argument is a file or a folder, by what it is called."""
    if action.choices is not None or action.nargs == 0:
        return
    shown = action.metavar if isinstance(action.metavar, str) else ""
    if shown in _FOLDERS or (not shown and action.dest in ("dataset", "run")):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif shown in _FILES or (not shown and action.dest in _PATHS):
        action.complete = shtab.FILE  # type: ignore[attr-defined]


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.completion",
        description="Write the completion of `mmdata` and `mmtrain` for a shell; needs the extra `completion`.",
        epilog="bash: python -m mmdata.completion bash > ~/.local/share/bash-completion/completions/mmdata\n"
        "      python -m mmdata.completion bash mmtrain > ~/.local/share/bash-completion/completions/mmtrain\n"
        "zsh:  python -m mmdata.completion zsh > DIR/_mmdata      where DIR is in $fpath\n"
        "fish: python -m mmdata.completion fish > ~/.config/fish/completions/mmdata.fish\n\n"
        "exit codes: 0 done; 1 shtab is missing.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.add_argument("package", nargs="?", choices=("mmdata", "mmtrain"), default="mmdata", help="default: mmdata")
    options = parser.parse_args(argv)
    try:
        print(script(options.package, options.shell))
    except RunError as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
