"""Completion, in a real bash where a person would press Tab, and written for the other shells."""

from __future__ import annotations

import builtins
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmdata import completion
from mmdata.__main__ import COMMANDS

ASK = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/') "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("shtab")
    file = tmp_path_factory.mktemp("completion") / "mmdata.bash"
    file.write_text(completion.script("mmdata", "bash"))
    return file


def offered(script: Path, *words: str, cwd: Path) -> set[str]:
    """What bash offers for the last of `words`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    command = [bash, "--norc", "-c", ASK, "bash", str(script), *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_options_and_choices(written: Path, tmp_path: Path) -> None:
    assert offered(written, "mmdata", "", cwd=tmp_path) >= set(COMMANDS)
    assert offered(written, "mmdata", "ver", cwd=tmp_path) == {"verify"}
    assert "--dry-run" in offered(written, "mmdata", "build", "--d", cwd=tmp_path)
    assert offered(written, "mmdata", "export", "--to", "", cwd=tmp_path) >= {"parquet", "mds", "energon"}


def test_bash_completes_files(written: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").touch()
    assert "my.yaml" in offered(written, "mmdata", "build", "--spec", "m", cwd=tmp_path)


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_every_shell_is_told_every_command(shell: str) -> None:
    pytest.importorskip("shtab")
    text = completion.script("mmdata", shell)
    assert all(name in text for name in COMMANDS)
    assert "dry" in text
    assert "replay" in completion.script("mmtrain", shell)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **named: Any) -> Any:
        if name == "shtab":
            raise ModuleNotFoundError("No module named 'shtab'", name="shtab")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert completion.main(["bash"]) == 1
    assert f"{sys.executable} -m pip install 'shtab>=1.13'" in capsys.readouterr().err


def test_what_parses_no_arguments_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="parses no arguments"):
        completion.parser_of(lambda argv: None)
