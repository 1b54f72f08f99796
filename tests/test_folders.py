"""Commands that work on datasets of this machine say so of a URL, and look for nothing there."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.building import build, folder_of_pictures, write_spec

URL = "http://host.invalid:1/small"


@pytest.mark.parametrize(
    "command",
    [
        f"verify {URL}",
        f"report {URL}",
        f"report out --against {URL}",
        f"compact {URL}",
        f"diff out {URL}",
        f"diff {URL} out",
        f"export {URL} --to parquet --output new",
        f"forget {URL} --keys a --reason x",
    ],
)
def test_a_url_is_refused_in_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, *arguments = command.split()
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"mmdata.{module}").main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {URL}: this command works on local datasets; copy it here first\n"


def test_a_file_url_is_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_pictures(tmp_path / "in", 1)
    build(write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, []))
    assert importlib.import_module("mmdata.verify").main([f"file://{tmp_path / 'out'}"]) == 0
    assert "sound" in capsys.readouterr().out
