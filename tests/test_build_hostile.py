"""Whole builds under unkind circumstances: steps that answer nonsense, broken inputs, kills while publishing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata.errors import DataError
from mmdata.shards.dataset import open_dataset
from mmdata.verify import verify_dataset
from tests import forked
from tests import killed as killer
from tests.building import build, content, folder_of_pictures, ledger, write_spec

PLUGIN = """
import dataclasses
import sys
from typing import Literal
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.types import Drop, Text


@register("step", "odd")
class Odd(StepSpec):
    kind: Literal["odd"] = "odd"
    how: str

    def apply(self, sample, work):
        media = sample.media[0]
        return {
            "nothing": lambda: None,
            "list": lambda: [sample],
            "key": lambda: dataclasses.replace(sample, key="other"),
            "meta": lambda: dataclasses.replace(sample, meta={"f": lambda: 0}),
            "nan": lambda: dataclasses.replace(sample, meta={"f": float("nan")}),
            "ok": lambda: Drop(reason="fine", state="ok"),
            "state": lambda: Drop(reason="fine", state="gone"),
            "unsaid": lambda: Drop(reason=""),
            "empty": lambda: dataclasses.replace(sample, parts=(dataclasses.replace(media, data=None),)),
            "part": lambda: dataclasses.replace(sample, parts=("text",)),
            "surrogate": lambda: dataclasses.replace(sample, parts=(Text(text="\\ud800"),)),
            "detail": lambda: Drop(reason="fine", detail="\\ud800"),
            "exit": lambda: sys.exit(3),
            "more": lambda: dataclasses.replace(sample, parts=(*sample.parts, Text(text="more"), media)),
            "fewer": lambda: dataclasses.replace(sample, parts=sample.texts),
        }[self.how]()
"""


def odd_spec(folder: Path, how: str) -> Path:
    (folder / "odd.py").write_text(PLUGIN)
    folder_of_pictures(folder / "in", 3)
    return write_spec(
        folder / "spec.yaml", {"kind": "folder", "path": "in"}, [{"kind": "odd", "how": how}], plugins=["odd.py"]
    )


@pytest.mark.parametrize(
    "how", ["nothing", "list", "key", "meta", "nan", "ok", "state", "unsaid", "empty", "part", "surrogate", "exit"]
)
def test_a_step_that_answers_nonsense_stops_the_run_and_names_the_record(tmp_path: Path, how: str) -> None:
    done = build(odd_spec(tmp_path, how), code=1)
    assert "this is a bug in the step" in done.stderr
    assert ".jpg row 0" in done.stderr
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("how", ["detail", "more", "fewer"])
def test_a_step_may_change_the_parts(tmp_path: Path, how: str) -> None:
    build(odd_spec(tmp_path, how))
    dataset = open_dataset(tmp_path / "out")
    assert verify_dataset(tmp_path / "out").problems == []
    parts = {"detail": [], "more": [(2, 2)] * 3, "fewer": [(0, 1)] * 3}[how]
    assert [(len(sample.media), len(sample.texts)) for sample in dataset] == parts


def test_a_step_that_workers_cannot_build_is_a_bug_not_a_crash_per_record(tmp_path: Path) -> None:
    """Started afresh, as they are where torch is loaded, workers know plugins only."""
    spec = odd_spec(tmp_path, "more")
    code = (
        "import sys, torch, mmdata.specfile as s, mmdata.build as b; spec, _ = s.load_build(sys.argv[1]); "
        "b.build_dataset(spec.model_copy(update={'plugins': ()}), quiet=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spec)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "no step is called 'odd'" in done.stderr
    assert not list((tmp_path / "out" / "ledger").iterdir())


def test_a_dataset_of_nothing_is_a_dataset(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 12)
    spec = write_spec(tmp_path / "spec.yaml", {"kind": "folder", "path": "in"}, [{"kind": "min_side", "pixels": 9999}])
    build(spec)
    assert verify_dataset(tmp_path / "out").problems == []
    dataset = open_dataset(tmp_path / "out")
    assert (len(dataset), list(dataset), dataset.keys(), "x" in dataset) == (0, [], [], False)
    assert b"<html" in (tmp_path / "out" / "report.html").read_bytes()
    build(spec, "--retry", "transient")


def test_a_row_group_that_breaks_off_keeps_what_came_before_it(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 1)
    rows = {
        "URL": [(tmp_path / "in" / "0000.jpg").as_uri()] * 300,
        "TEXT": [f"text {n} {os.urandom(90).hex()}" for n in range(300)],
    }
    table, whole = tmp_path / "a.parquet", tmp_path / "whole.parquet"
    pq.write_table(pa.table(rows), whole, row_group_size=100, compression="zstd", use_dictionary=False)
    damaged = bytearray(whole.read_bytes())
    column = pq.ParquetFile(whole).metadata.row_group(2).column(1)
    damaged[column.data_page_offset : column.data_page_offset + column.total_compressed_size] = os.urandom(
        column.total_compressed_size
    )
    table.write_bytes(damaged)
    spec = write_spec(
        tmp_path / "spec.yaml",
        {"kind": "laion", "path": "a.parquet", "local_files": True},
        [],
        output={"unit_rows": 30},
    )
    done = build(spec, code=2)
    assert "row group 2" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(list((tmp_path / "out" / "shards").iterdir())) == 6  # rows 0 to 179 of the 200 readable ones
    assert build(spec, code=2).stderr == done.stderr
    build(spec, "--limit", "200", "--output", str(tmp_path / "readable"))
    assert len(open_dataset(tmp_path / "readable")) == 200


def test_a_file_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert any("manifest_unreadable" in problem for problem in verify_dataset(tmp_path / "file").problems)
    with pytest.raises(DataError, match="manifest_unreadable"):
        open_dataset(tmp_path / "file")


def test_a_damaged_build_state_is_one_clear_line(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 1)
    spec = write_spec(tmp_path / "spec.yaml", {"kind": "folder", "path": "in"}, [])
    build(spec)
    (tmp_path / "out" / ".build" / "build.json").write_text("{")
    done = build(spec, code=2)
    assert done.stderr.startswith("error: file_damaged: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_build_of_a_version_with_fewer_keys_goes_on(tmp_path: Path) -> None:
    """What is null by default need not have been a key when the build was begun; what is not null must."""
    folder_of_pictures(tmp_path / "in", 1)
    spec = write_spec(tmp_path / "spec.yaml", {"kind": "folder", "path": "in"}, [])
    build(spec)
    file = tmp_path / "out" / ".build" / "build.json"
    bound = json.loads(file.read_bytes())
    assert bound["spec"].pop("limit", "none") is None
    file.write_text(json.dumps(bound))
    build(spec)
    bound["spec"]["output"].pop("seed")
    file.write_text(json.dumps(bound))
    assert "spec.output.seed: absent -> 0" in build(spec, code=2).stderr


def killed(at: int, *arguments: str) -> int:
    done = forked.run("tests.killed", str(at), *arguments, timeout=60)
    assert done.returncode in (0, killer.CODE), done.stderr
    return done.returncode


class Recovering(ThreadingHTTPServer):
    """Answers 503 until `well` is set, then pictures."""

    well = False


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Recovering]:
    folder_of_pictures(tmp_path / "pictures", 6)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            file = tmp_path / "pictures" / self.path.lstrip("/")
            status = 404 if not file.is_file() else 200 if running.well else 503
            data = file.read_bytes() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None:
            pass

    running = Recovering(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_retry_killed_at_any_step_of_its_publication_is_completed(tmp_path: Path, server: Recovering) -> None:
    rows = []
    for number in range(6):  # of each unit one row is at hand and the others fail at first
        name = f"{number:04d}.jpg"
        url = f"pictures/{name}" if number in (2, 3) else f"http://127.0.0.1:{server.server_port}/{name}"
        rows.append(json.dumps({"image": url, "text": f"text {number}"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    spec = write_spec(
        tmp_path / "spec.yaml",
        {"kind": "jsonl", "path": "rows.jsonl"},
        [{"kind": "exact_dedup"}],
        output={"unit_rows": 3},
        fetch={"retries": 0, "allow_private": True},
        engine={"workers": 1},
    )
    build(spec)
    base, whole, out = tmp_path / "base", tmp_path / "whole", tmp_path / "out"
    shutil.move(out, base)
    assert sum(row.state == "failed_transient" for row in ledger(base)) == 4
    server.well = True
    arguments = ("--retry", "transient", "--output")
    shutil.copytree(base, whole)
    build(spec, *arguments, str(whole))
    before, after = content(base), content(whole)
    assert before != after
    seen, at = set(), 0
    for at in range(20, 200, 7):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base, out)
        if killed(at, str(spec), *arguments, str(out)) == 0:
            break
        now = content(out)
        seen.add("before" if now == before else "after" if now == after else "between")
        if (out / ".build" / "publish.json").exists():
            with pytest.raises(DataError, match="publish_interrupted"):
                open_dataset(out)
        else:
            assert now in (before, after)
            assert len(list(open_dataset(out))) in (2, 6)
        build(spec, *arguments, str(out))
        assert content(out) == after
        assert verify_dataset(out).problems == []
        assert not [path for path in out.rglob("*") if path.name.endswith((".tmp", ".part"))]
    assert seen == {"before", "between", "after"}, at
