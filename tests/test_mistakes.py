"""What a new user does wrong in the first hour, command by command: each answered by one useful line (or one a mistake)
that names the place and what to do, with a pointer to read on, and nothing left behind."""

# ruff: noqa: E501 the tables are read line by line
from __future__ import annotations

import importlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmdata import pointer
from mmdata.errors import DataError, RunError, SpecError
from mmdata.shards import manifest as manifests
from tests.building import build, folder_of_pictures

SPECS: dict[str, Any] = {
    "folder": {"source": {"kind": "folder", "path": "images"}, "output": {"path": "new"}},
    "laion": {"source": {"kind": "laion", "path": "table.csv"}, "output": {"path": "new"}},
    "train": {"data": {"dataset": "out", "max_length": 64}, "output": "run", "steps": 1},
    "stream": {"dataset": "out", "max_length": 64},
}
# command and arguments; code; what is said; the entry that is pointed to
BUILD = [
    ("--spec nope.yaml", 2, "nope.yaml: no such file, nor a shipped pipeline; ", "spec_mistake"),
    ("--spec foldr.yaml", 2, "foldr.yaml: no such file, nor a shipped pipeline; did you mean 'folder.yaml'?", ""),
    ("--spec elsewhere/folder.yaml", 2, "elsewhere/folder.yaml: no such file", ""),
    ("--spec images", 2, "images: a folder, not a spec file; python -m mmdata.init --list", ""),
    ("--spec out", 2, "out: a dataset, not a spec file; a spec names it", ""),
    ("--spec images/0000.jpg", 2, "0000.jpg: cannot be read: 'utf-8' codec", ""),
    ("--spec train.yaml", 2, "train.yaml: this is the spec of a training run: python -m mmtrain.sft --config", ""),
    ("--spec unclosed.yaml", 2, "unclosed.yaml:2:7: not valid YAML: expected ',' or '}', but got ':' (while parsing a flow", ""),
    ("--spec tabs.yaml", 2, "tabs.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token; YAML is", ""),
    ("--spec twice.yaml", 2, "line 3: source: written twice, first on line 1; keep one", ""),
    ("--spec list.yaml", 2, "list.yaml: the top level must be a mapping of keys", ""),
    ("--spec empty.yaml", 2, "source: required, but missing (Where the records come from.)", ""),
    ("--spec folder.yaml --set source.path=image", 2, 'source.path: "image": no such file or folder: ', ""),
    ("--spec folder.yaml --set source.path=image", 2, "; did you mean 'images'?", ""),
    ("--spec folder.yaml --set source.pth=images", 2, "source.pth: \"images\": unknown key; did you mean 'path'?", ""),
    ("--spec folder.yaml --set source.knid=x", 2, "source.knid: \"x\": unknown key; did you mean 'kind'?", ""),
    ("--spec folder.yaml --set source.kind=foldr", 2, "source.kind: \"foldr\": no such kind; did you mean 'folder'?", ""),
    ("--spec folder.yaml --set steps=[{kind:min_sid}]", 2, "write a space behind the colon: `kind: min_sid`", ""),
    ("--spec folder.yaml --set fetch.retries=many", 2, 'fetch.retries: "many": Input should be a valid integer', ""),
    ("--spec folder.yaml --set fetch.retries=-1", 2, "fetch.retries: -1: Input should be greater than or equal to 0", ""),
    ("--spec folder.yaml --set retries", 2, "--set retries: write it as path=value", ""),
    ("--spec folder.yaml --append --retry transient", 2, "--append and --retry: one after the other", ""),
    ("--spec folder.yaml --worker 0/2 --retry transient", 2, "--worker and --retry: one after the other", ""),
    ("--spec folder.yaml --worker 0/2 --finish", 2, "--worker and --finish: one after the other", ""),
    ("--spec folder.yaml --worker 0/2 --push there", 2, "--worker and --push: one after the other", ""),
    ("--spec folder.yaml --finish --retry transient", 2, "--finish and --retry: one after the other", ""),
    ("--spec folder.yaml --push-replace", 2, "--push-replace says what --push may do: name its URL", ""),
    ("--spec folder.yaml --limit 0", 2, "limit: 0: Input should be greater than or equal to 1", ""),
    ("--spec folder.yaml --output images/new", 2, "images/new lies in what the source reads (", "output_in_source"),
    ("--spec folder.yaml --set source.path=hollow", 2, "hollow", "source_empty"),
    ("--spec laion.yaml", 2, "source.columns.text: ", ""),
    ("--spec laion.yaml", 2, "has no column 'TEXT'; its columns: URL, CAPTION", ""),
    ("--spec laion.yaml --set source.columns.text=CAPTION --set source.where=WIDHT>3", 2, "WIDHT", ""),
    ("--spec laion.yaml --set source.path=images/0000.txt", 2, "0000.txt", ""),
    ("--spec folder.yaml --output images", 2, "images holds other files (0000.jpg, 0000.txt, 0001.jpg, ...); give a new", "output_not_empty"),
    ("--spec folder.yaml --output table.csv", 1, "table.csv: it is a file, not a folder; give a new folder", ""),
    ("--spec folder.yaml --output table.csv/new", 1, "table.csv is a file, not a folder; give a new folder", ""),
    ("--spec folder.yaml --output dangling", 1, "dangling: it is a link to nothing; give a new folder", ""),
    ("--spec folder.yaml --output out --set fetch.retries=1", 2, "out was begun with another spec or input; build to another output.path", ""),
    ("--spec folder.yaml --output s3://bucket/x --dry-run", 2, "a build writes to a local folder", ""),
    ("--spec folder.yaml --retry transient", 2, "manifest.json: the build has not finished: run it again", "manifest_missing"),
    ("--spec folder.yaml --worker 3", 2, "3", ""),
]  # fmt: skip
LOOK = [
    ("explain nodir", 2, "manifest_missing: nodir/manifest.json: no such folder", "manifest_missing"),
    (
        "explain images",
        2,
        "images/manifest.json: not a dataset made by mmdata.build; build one first",
        "manifest_missing",
    ),
    ("explain images/0000.txt", 2, "images/0000.txt: a file, not the folder of a dataset", "manifest_unreadable"),
    (
        "explain folder.yaml",
        2,
        "folder.yaml: this is the spec of a build: python -m mmdata.build --spec",
        "spec_mistake",
    ),
    ("explain old", 2, "manifest_version: old/manifest.json: version 3, this code reads ", "manifest_version"),
    ("explain out --family lava --tokenizer images", 2, "tokenizer: images holds no tokenizer that can be read", ""),
    (
        "explain out --family llava --tokenizer tokens",
        2,
        "tokenizer: no such folder: tokens, nor is it in the hub's",
        "",
    ),
    ("explain out --family llava", 2, "tokenizer: a family needs one; give --tokenizer FOLDER", "spec_mistake"),
    ("explain out --step 99", 2, "step: the stream ends before step 99", ""),
    ("verify nodir", 1, "manifest_missing: nodir/manifest.json: no such folder", ""),
    ("report nodir", 2, "manifest_missing: nodir/manifest.json: no such folder", "manifest_missing"),
    ("diff out nodir", 2, "manifest_missing: nodir/manifest.json: no such folder", "manifest_missing"),
    ("forget out --keys nokey --reason x", 2, "key_unknown: out has no key nokey; ", "key_unknown"),
    ("forget out --file nofile --reason x", 1, "nofile: No such file or directory", "no_such_file"),
    ("forget out --where widht>3 --reason x", 2, "widht", ""),
    (
        "export out --to parquet --output images",
        2,
        "--output images: exists; remove it or name another",
        "spec_mistake",
    ),
    ("index no-*.tar --output adopted", 2, "no-*.tar: no tar or table there", "spec_mistake"),
    ("init foldr", 2, "nothing is called 'foldr'; did you mean 'folder'?", "spec_mistake"),
]
TRAIN = [
    ("--config nope.yaml", 2, "nope.yaml: no such file, nor a shipped pipeline; ", "spec_mistake"),
    ("--config out", 2, "out: a dataset, not a spec file; a spec names it (python -m mmdata.init train, or stream)", ""),
    ("--config folder.yaml", 2, "folder.yaml: this is the spec of a build: python -m mmdata.build --spec", ""),
    ("--config train.yaml --set data.dataset=ot", 2, "data.dataset: \"ot\": no such file or folder: ", ""),
    ("--config train.yaml --set data.dataset=images", 1, "not a dataset made by mmdata.build; build one first", "manifest_missing"),
    ("--config train.yaml --set data.dataset=old", 1, "version 3, this code reads ", "manifest_version"),
    ("--config train.yaml --set data.datset=out", 2, "data.datset: \"out\": unknown key; did you mean 'dataset'?", ""),
    ("--config train.yaml --set optim.schedule=cosin", 2, "optim.schedule: \"cosin\": not a known value; did you mean 'cosine'?", ""),
    ("--config train.yaml --set tokenizer.path=images", 2, "holds no tokenizer: none of tokenizer.json, ", ""),
    ("--config train.yaml --set model={kind:hf,path:images}", 2, "", ""),
    ("--config train.yaml --stage one", 2, "--stage one: no such stage; the config has no `stages`", ""),
    ("--config train.yaml --resume here", 2, "--resume here: no such checkpoint; give auto, never or the path of one", ""),
    ("--config train.yaml --set output=out", 2, "out is a dataset; give the run a folder of its own", ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lies on a new user's desk."""
    folder = tmp_path_factory.mktemp("desk")
    folder_of_pictures(folder / "images", 2)
    (folder / "hollow").mkdir()
    (folder / "dangling").symlink_to("nowhere")
    (folder / "table.csv").write_text("URL,CAPTION\nhttp://host.invalid/a.jpg,a cat\n")
    for name, values in SPECS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))
    texts = {
        "unclosed": "source: {kind: folder, path: images\noutput: {path: x}\n",
        "tabs": "source:\n\tkind: folder\n",
    }
    texts |= {"twice": "source: {}\noutput: {path: x}\nsource: {}\n", "list": "- a\n", "empty": ""}
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    build(folder / "folder.yaml", "--output", str(folder / "out"), "--limit", "1")
    (folder / "old").mkdir()
    old = {**json.loads((folder / "out" / "manifest.json").read_text()), "version": manifests.VERSION - 1}
    (folder / "old" / "manifest.json").write_text(json.dumps(old))
    return folder


def ask(
    command: str, desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> tuple[int, str, set[str]]:
    """Exit code, what is said, and what the command has left behind."""
    monkeypatch.chdir(desk)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    module, *arguments = command.split()
    before = {path for path in desk.rglob("*") if ".build" not in path.parts}
    main = importlib.import_module(module).main
    capfd.readouterr()
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    said = capfd.readouterr()
    after = {path for path in desk.rglob("*") if ".build" not in path.parts}
    return code, said.err if said.err else said.out, {path.relative_to(desk).parts[0] for path in after - before}


def check(found: tuple[int, str, set[str]], code: int, told: str, entry: str) -> None:
    got, said, left = found
    lines = said.strip().splitlines()
    assert got == code, said
    assert told in said
    assert "Traceback" not in said
    assert "[Errno" not in said
    if lines[0].endswith((" mistake", " mistakes", "take these changes back:")):
        lines = lines[:1] + [line for line in lines[1:] if not line.startswith("  ")]
    assert len(lines) <= 2, "a line, and that of a list of problems"
    if entry:
        assert f"docs/troubleshooting.md#{entry}" in said
    assert left <= {"new", "run"}


@pytest.mark.parametrize(("arguments", "code", "told", "entry"), BUILD, ids=lambda value: str(value)[:60])
def test_building(
    desk: Path, arguments: str, code: int, told: str, entry: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    check(ask(f"mmdata.build --quiet {arguments}", desk, monkeypatch, capfd), code, told, entry)


@pytest.mark.parametrize(("arguments", "code", "told", "entry"), LOOK, ids=lambda value: str(value)[:60])
def test_looking(
    desk: Path, arguments: str, code: int, told: str, entry: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    check(ask(f"mmdata.{arguments}", desk, monkeypatch, capfd), code, told, entry)


@pytest.mark.parametrize(("arguments", "code", "told", "entry"), TRAIN, ids=lambda value: str(value)[:60])
def test_training(
    desk: Path, arguments: str, code: int, told: str, entry: str,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    check(ask(f"mmtrain.sft {arguments}", desk, monkeypatch, capfd), code, told, entry)


def test_no_permission(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    real = os.mkdir

    def refuse(path: Any, *rest: Any, **named: Any) -> None:
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *rest, **named)

    monkeypatch.setattr(os, "mkdir", refuse)
    found = ask("mmdata.build --quiet --spec folder.yaml --output locked", desk, monkeypatch, capfd)
    check(found, 1, "locked", "permission_denied")
    assert "Permission denied" in found[1]


def test_a_missing_package(desk: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    values = {"source": {"kind": "pdf", "path": "images"}, "output": {"path": "new"}}
    (desk / "pdf.yaml").write_text(yaml.safe_dump(values))
    (desk / "images" / "a.pdf").write_bytes(b"%PDF-1.4\n")
    check(ask("mmdata.build --quiet --spec pdf.yaml", desk, monkeypatch, capfd), 2, "pip install", "")
    (desk / "images" / "a.pdf").unlink()


def test_no_network_is_told_by_reasons(desk: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A build whose rows all fail is done, and says why and what next."""
    done = build(desk / "laion.yaml", "--set", "source.columns.text=CAPTION", "--output", str(desk / "unheard"))
    assert "dns_not_found" in done.stdout
    assert "0 samples" in done.stdout


def test_the_stream_in_python(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmdata import StreamingDataset, open_dataset

    monkeypatch.chdir(desk)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for call, kind, told in (
        (lambda: StreamingDataset("nodir"), DataError, "manifest_missing: nodir/manifest.json: no such folder"),
        (lambda: StreamingDataset("out", max_lenght=3), TypeError, "max_lenght"),  # type: ignore[call-arg]
        (lambda: StreamingDataset("out", shuffle="globl"), SpecError, "shuffle"),  # type: ignore[arg-type]
        (lambda: StreamingDataset("out", family="llava"), SpecError, "tokenizer: family 'llava' needs one"),
        (lambda: StreamingDataset("out", family="llava", tokenizer="no"), SpecError, "tokenizer: no such folder: no"),
        (lambda: StreamingDataset("folder.yaml"), SpecError, "this is the spec of a build"),
        (lambda: open_dataset("out")["none"], (DataError, KeyError), "none"),
        (lambda: open_dataset("images/0000.txt"), DataError, "a file, not the folder of a dataset"),
    ):
        with pytest.raises(kind, match=re.escape(told)):
            call()


def test_every_reason_that_commands_give_has_an_entry() -> None:
    page = pointer.find()
    assert page is not None
    known = pointer.anchors(page.read_text(encoding="utf-8"))
    reasons = {
        *pointer.SYSTEM.values(),
        SpecError().reason,
        RunError().reason,
        "output_in_source",
        "output_not_empty",
        "package_missing",
    }
    assert reasons - known == set()
