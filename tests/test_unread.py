"""Commands whose reader leaves, as `| head` does, or that have no output at all."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.building import content, folder_of_pictures
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

ENDLESS = (
    "import itertools, sys; from mmdata import unread\n"
    "@unread.{how}\n"
    "def main():\n"
    "    for number in itertools.islice(itertools.count(), {most}):\n"
    "        try: print('line', number)\n"
    "        except OSError: sys.exit('trouble with files')\n"
    "    print('all of', number + 1, file=sys.stderr)\n"
    "    return {code}\n"
    "sys.exit(main())\n"
)


def ended(command: Sequence[str], *, errors: bool = False, cwd: Path | None = None) -> tuple[int, str]:
    """Code and errors of a Python whose output nobody reads; with `errors` they go the same way."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, *command],
            stdout=writer,
            stderr=subprocess.STDOUT if errors else subprocess.PIPE,
            text=True,
            timeout=120,
            cwd=cwd,
        )
    finally:
        os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unread")
    folder_of_pictures(folder / "photos", 6)
    body = {
        "source": {"kind": "folder", "path": "photos"},
        "steps": [{"kind": "probe"}],
        "engine": {"workers": 1},
        "output": {"path": "data"},
    }
    (folder / "build.yaml").write_text(yaml.safe_dump(body))
    return folder / "build.yaml"


@pytest.mark.parametrize(
    "command",
    [
        ["mmdata", "--help"],
        ["mmdata", "init", "--steps"],
        ["mmdata.init", "folder"],
        ["mmdata.verify", "--help"],
        ["mmdata.verify", "DATASET"],
        ["mmdata.explain", "DATASET", "--step", "0"],
        ["mmdata.diff", "DATASET", "DATASET", "--json"],
        ["mmtrain", "--help"],
    ],
    ids=" ".join,
)
def test_a_command_that_prints_ends_quietly(command: list[str], tmp_path: Path) -> None:
    if "DATASET" in command:
        write_dataset(tmp_path / "data", samples=12)
    told = [str(tmp_path / "data") if word == "DATASET" else word for word in command]
    assert ended(["-m", *told]) == (141, "")


def test_a_build_without_a_reader_is_whole(spec: Path) -> None:
    common = ["-m", "mmdata.build", "--spec", str(spec), "--output"]
    assert ended([*common, str(spec.parent / "unread")])[0] == 141
    assert ended([*common, str(spec.parent / "deaf")], errors=True)[0] == 141
    subprocess.run([sys.executable, *common, str(spec.parent / "read")], check=True, capture_output=True)
    same = content(spec.parent / "read")
    assert content(spec.parent / "unread") == content(spec.parent / "deaf") == same
    again = subprocess.run([sys.executable, *common, str(spec.parent / "deaf")], check=True, capture_output=True)
    assert b"6" in again.stdout
    assert ended(["-m", "mmdata.build", "--spec", str(spec), "--set", "steps=[{kind: none}]"], errors=True)[0] == 2


def test_a_build_without_any_output_is_whole(spec: Path) -> None:
    line = f"{sys.executable} -m mmdata.build --spec {spec} --output {spec.parent}/closed <&- >&- 2>&-"
    subprocess.run(["sh", "-c", line], check=True)
    subprocess.run([sys.executable, "-m", "mmdata.verify", str(spec.parent / "closed")], check=True)


def test_a_replay_without_a_reader_writes_its_record(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", samples=12)
    small_tokenizer().save_pretrained(str(tmp_path / "tokenizer"))
    told = ["-u", "-m", "mmdata.replay", str(data), "--tokenizer", str(tmp_path / "tokenizer"), "--max-length", "128"]
    told += ["--family", "llava", "--image", "size=28", "--global-batch", "1", "--steps", "0..1"]
    assert ended(told) == (141, "")
    assert ended([*told, "--record", str(tmp_path / "record.jsonl")])[0] == 141
    assert (tmp_path / "record.jsonl").read_text().count("\n") == 2


@pytest.mark.parametrize("unbuffered", [False, True])
def test_who_prints_stops_at_once_and_who_makes_goes_on(unbuffered: bool) -> None:
    flags = ["-u"] * unbuffered
    endless = 10**9
    assert ended([*flags, "-c", ENDLESS.format(how="stops", most=endless, code=0)]) == (141, "")
    assert ended([*flags, "-c", ENDLESS.format(how="goes_on", most=9999, code=0)]) == (141, "all of 9999\n")
    assert ended([*flags, "-c", ENDLESS.format(how="goes_on", most=9999, code=3)]) == (3, "all of 9999\n")


@pytest.mark.parametrize("unbuffered", [False, True])
def test_what_is_read_is_whole(unbuffered: bool) -> None:
    code = ENDLESS.format(how="stops", most=5000, code=0)
    done = subprocess.run([sys.executable, *["-u"] * unbuffered, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "all of 5000\n")
    assert done.stdout == "".join(f"line {number}\n" for number in range(5000))


@pytest.mark.parametrize("package", ["mmdata", "mmtrain"])
def test_every_command_knows_what_to_do_unread(package: str) -> None:
    for name in importlib.import_module(f"{package}.__main__").COMMANDS:
        module = f"{package}.contrastive.command" if name == "contrastive" else f"{package}.{name}"
        main = importlib.import_module(module).main
        assert inspect.unwrap(main) is not main, name
