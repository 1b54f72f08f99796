"""The lists of commands: none is missing, each says in a line what it is for, and its own help says the rest."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from mmdata import completion

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmdata", "mmtrain")


@pytest.mark.parametrize("package", PACKAGES)
def test_no_command_is_missing(package: str) -> None:
    listed = importlib.import_module(f"{package}.__main__").COMMANDS
    runnable = {
        path.stem
        for path in (ROOT / package).glob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8") and path.stem != "__main__"
    }
    runnable |= {path.parent.name for path in (ROOT / package).glob("*/__main__.py")}
    assert set(listed) == runnable


@pytest.mark.parametrize("package", PACKAGES)
def test_help_lists_each_with_a_line(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"{package}.__main__")
    for arguments in (["--help"], []):
        with pytest.raises(SystemExit) as ended:
            main.main(arguments)
        assert ended.value.code == 0
        said = capsys.readouterr().out.splitlines()
        for name, about in main.COMMANDS.items():
            (line,) = [line for line in said if line.split()[:1] == [name]]
            assert line.endswith(about)
            assert len(line) <= 120


@pytest.mark.parametrize("package", PACKAGES)
def test_a_command_that_is_not_there(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    main = importlib.import_module(f"{package}.__main__")
    with pytest.raises(SystemExit) as ended:
        main.main(["biuld"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in main.COMMANDS)


def test_a_command_runs_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmdata", "init", "--list"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "laion_subset" in done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_the_help_of_each_command_teaches(package: str) -> None:
    for name, _, parser in completion.parsers(package):
        assert parser.prog == f"python -m {package}.{name}"
        assert len(parser.description or "") > 20, f"{name}: what is it for?"
        unsaid = [action.dest for action in parser._actions if not action.help]
        assert unsaid == [], f"{package}.{name}"
