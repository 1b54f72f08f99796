"""The build command on the embedded example and on folders: accounts, retry, kills, interruptions, bad steps."""

from __future__ import annotations

import collections
import hashlib
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import yaml

from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import open_dataset
from mmdata.testing.example import SLOW_KINDS, Example, make_example
from mmdata.testing.kill import run_with_kills
from mmdata.verify import verify_dataset
from tests.building import build, command, content, folder_of_pictures, ledger, picture, write_spec

PLUGIN = """
import os, signal, time
from typing import Literal
from mmdata import register
from mmdata.spec import StepSpec

@register("step", "poison")
class Poison(StepSpec):
    kind: Literal["poison"] = "poison"

    def apply(self, sample, work):
        if sample.key.endswith("3"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if sample.key.endswith("7"):
            time.sleep(1000)
        return sample
"""
BUG = """
from typing import Literal
from mmdata import register
from mmdata.spec import StepSpec

@register("step", "buggy")
class Buggy(StepSpec):
    kind: Literal["buggy"] = "buggy"

    def apply(self, sample, work):
        return sample.no_such_attribute
"""


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(tmp_path_factory.mktemp("example") / "example", records=1000)


@pytest.fixture(scope="module")
def built(example: Example) -> Path:
    """The dataset of the example, built by the command while its servers misbehave."""
    with example.serve():
        build(example.spec)
    return example.folder / "dataset"


def test_every_record_ends_as_planted(example: Example, built: Path) -> None:
    expected = {row["row"]: row for row in example.expected()}
    rows = ledger(built)
    assert [row.row for row in rows] == list(range(len(expected))), "one ledger row per input row, in order"
    wrong = [
        (row.row, expected[row.row]["kind"], row.state, row.reason, row.detail, "expected", expected[row.row]["reason"])
        for row in rows
        if (row.state, row.reason) != (expected[row.row]["state"], expected[row.row]["reason"])
    ]
    assert wrong == []
    kinds = collections.Counter(row["kind"] for row in expected.values() if row["kind"])
    assert len(rows) >= 1000
    assert len(kinds) >= 15
    manifest = manifests.read(built)
    assert sum(manifest.counts.values()) == manifest.input_rows == len(rows)
    assert manifest.counts == {**dict.fromkeys(manifest.counts, 0), **collections.Counter(row.state for row in rows)}


def test_a_finished_build_is_sound_and_says_so(built: Path) -> None:
    result = verify_dataset(built)
    assert result.problems == []
    assert result.samples == open_dataset(built).manifest.samples > 600


def test_duplicates_name_a_kept_key(built: Path) -> None:
    rows = ledger(built)
    kept = {row.key for row in rows if row.state == "ok"}
    duplicates = [row for row in rows if row.state == "duplicate"]
    assert duplicates
    assert all(row.of in kept and row.of < row.key for row in duplicates)


def test_rejected_pictures_have_thumbnails(built: Path) -> None:
    pictured = collections.Counter(row.reason for row in ledger(built) if row.thumbnail)
    assert pictured["min_side"] >= 1
    assert pictured["near_dup"] >= 1


def test_the_first_rows_of_a_reason_are_pictured_whichever_worker_has_them(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 60, captions=False)
    spec = write_spec(
        tmp_path / "s.yaml",
        {"kind": "folder", "path": "in"},
        [{"kind": "probe"}, {"kind": "min_side", "pixels": 1000}],
        engine={"workers": 3},
        output={"unit_rows": 30},
    )
    build(spec)
    assert [row.row for row in ledger(tmp_path / "out") if row.thumbnail] == [0, 1, 2, 3, 30, 31, 32, 33]


def test_retry_requests_only_transient_rows(example: Example, built: Path) -> None:
    """Comes after the tests that look at the first build: it changes the dataset."""
    before = {row.row: row for row in ledger(built)}
    transient = {row.row for row in before.values() if row.state == "failed_transient"}
    old = {key: open_dataset(built)[key] for key in open_dataset(built).keys()}  # noqa: SIM118 not a dict
    with example.serve(healed=True) as server:
        build(example.spec, "--retry", "transient")
        requested = {request.path for request in server.log()}
    expected = {row["row"]: row for row in example.expected()}
    paths = {
        "/" + (row.uri or "").split("/", 3)[-1]: row.row for row in before.values() if (row.uri or "").count("/") > 2
    }
    unknown = {path for path in requested if path not in paths and path != "/robots.txt"}
    assert unknown <= {path for path in requested if "redirect" in path or "target" in path}, unknown
    asked = {paths[path] for path in requested if path in paths}
    assert asked <= transient
    after = ledger(built)
    assert [
        (row.row, row.state, row.reason, row.detail)
        for row in after
        if (row.state, row.reason) != (expected[row.row]["healed_state"], expected[row.row]["healed_reason"])
    ] == []
    manifest = manifests.read(built)
    assert manifest.generation == 1
    assert verify_dataset(built).problems == []
    dataset = open_dataset(built)
    assert all(dataset[key] == sample for key, sample in old.items()), "nothing that was good is lost"
    assert len(dataset) > len(old)


def test_retry_with_nothing_to_retry_changes_nothing(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 12)
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}])
    build(spec)
    before = (tmp_path / "out/manifest.json").read_bytes()
    build(spec, "--retry", "transient")
    assert (tmp_path / "out/manifest.json").read_bytes() == before


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Example:
    """An example whose answers do not depend on how often they are asked for."""
    return make_example(tmp_path_factory.mktemp("steady") / "example", records=240, leave_out=SLOW_KINDS, seed=5)


class _Watch:
    """Looks at a dataset's folder over and over, through all kills: whatever has a final name must be whole."""

    def __init__(self, output: Path, whole: dict[str, str]) -> None:
        self.looks = 0
        self.wrong: list[str] = []
        self._output, self._whole = output, whole
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            self.looks += 1
            for folder in ("shards", "index"):
                for path in (self._output / folder).glob("*"):
                    try:
                        digest = hashlib.sha256(path.read_bytes()).hexdigest()
                    except FileNotFoundError:  # the whole dataset was removed, to be built and killed again
                        continue
                    if self._whole.get(f"{folder}/{path.name}") != digest:
                        self.wrong.append(path.name)


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(((1, 2), (3, 2)), marks=pytest.mark.timeout(1800)),
        pytest.param(((1, 50), (2, 50), (3, 50)), marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_killed_builds_are_byte_identical(steady: Example, tmp_path: Path, plan: tuple[tuple[int, int], ...]) -> None:
    """`plan` is (workers, kills) for each build that is killed."""
    small_units = ("--set", "output.unit_rows=20")
    with steady.serve(healed=True):
        (alone,) = run_with_kills(command(steady.spec, *small_units, "--output", str(tmp_path / "whole")))
        seconds = alone.seconds
        whole = content(tmp_path / "whole")
        assert len(whole) >= 20
        for workers, kills in plan:
            output = tmp_path / f"killed-{workers}"
            with _Watch(output, whole) as watch:
                runs = run_with_kills(
                    command(steady.spec, *small_units, "--output", str(output), "--set", f"engine.workers={workers}"),
                    kills=kills,
                    seed=workers,
                    seconds=seconds,
                    earliest=0.3,
                    finished=lambda output=output: shutil.rmtree(output),
                )
            assert watch.wrong == []
            assert watch.looks > kills
            assert runs[-1].returncode == 0, runs[-1].output
            assert sum(run.killed_at is not None for run in runs) == kills
            assert content(output) == whole
            assert verify_dataset(output).problems == []
            assert manifests.read(output).root_digest == manifests.read(tmp_path / "whole").root_digest


def test_a_build_that_spills_to_disk_is_byte_identical(steady: Example, tmp_path: Path) -> None:
    with steady.serve(healed=True):
        build(steady.spec, "--output", str(tmp_path / "roomy"))
        build(steady.spec, "--output", str(tmp_path / "tight"), "--set", "engine.memory_mib=1")
    assert content(tmp_path / "roomy") == content(tmp_path / "tight")
    stats = yaml.safe_load((tmp_path / "tight" / "stats.json").read_text())
    assert stats["run"]["spooled_bytes"] > 0
    assert not list((tmp_path / "tight" / ".build" / "staging").iterdir())


def test_an_interrupt_says_how_to_resume(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 60)
    (tmp_path / "slow.py").write_text(
        PLUGIN.replace('endswith("3")', 'endswith("x")').replace("sleep(1000)", "sleep(0.3)")
    )
    spec = write_spec(
        tmp_path / "s.yaml",
        {"kind": "folder", "path": "in"},
        [{"kind": "probe"}, {"kind": "poison"}],
        plugins=["slow.py"],
        engine={"workers": 1},
        output={"unit_rows": 5},
    )
    process = subprocess.Popen(command(spec), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("shards/*.tar"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out/manifest.json").exists()
    build(spec)
    assert len(open_dataset(tmp_path / "out")) == 60


def test_a_crashing_and_a_hanging_decoder_cost_their_records_only(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 20)
    (tmp_path / "poison.py").write_text(PLUGIN)
    spec = write_spec(
        tmp_path / "s.yaml",
        {"kind": "folder", "path": "in"},
        [{"kind": "probe"}, {"kind": "poison"}],
        plugins=["poison.py"],
        engine={"sample_seconds": 2},
    )
    build(spec)
    ends = {row.row: (row.state, row.reason, row.detail) for row in ledger(tmp_path / "out")}
    assert ends[3][:2] == ends[13][:2] == ("failed_permanent", "decoder_crashed")
    assert "SIGSEGV" in ends[3][2]
    assert ends[7][:2] == ends[17][:2] == ("failed_permanent", "decoder_timeout")
    assert sum(state == "ok" for state, _, _ in ends.values()) == 16


def test_a_bug_in_a_step_stops_the_run_and_names_the_record(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 3)
    (tmp_path / "buggy.py").write_text(BUG)
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "buggy"}], plugins=["buggy.py"])
    errors = build(spec, code=1).stderr
    assert "bug in the step" in errors
    assert "no_such_attribute" in errors
    assert ".jpg row 0)" in errors


def test_resuming_with_another_spec_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 3)
    steps = [{"kind": "probe"}, {"kind": "min_side", "pixels": 64}]
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, steps)
    build(spec)
    errors = build(spec, "--set", "steps.min_side.pixels=65", code=2).stderr
    assert "spec.steps[1].pixels: 64 -> 65" in errors
    errors = build(spec, "--limit", "2", code=2).stderr
    assert "spec.limit: null -> 2" in errors
    picture(9).save(tmp_path / "in" / "0001.jpg", quality=90)
    errors = build(spec, code=2).stderr
    assert "inputs[0].sha256_listing: " in errors
    assert "0001.jpg: " in errors
    folder_of_pictures(tmp_path / "in", 4)
    assert "the source has grown" in build(spec, code=2).stderr


def test_running_a_finished_build_again_changes_nothing(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 3)
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}])
    build(spec)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    build(spec)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_limit_counts_input_rows(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 25)
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}])
    build(spec, "--limit", "12")
    manifest = manifests.read(tmp_path / "out")
    assert manifest.input_rows == manifest.samples == 12
    assert [entry.input_rows for entry in manifest.shards] == [10, 2]


def test_a_dry_run_fetches_and_writes_nothing(example: Example, tmp_path: Path) -> None:
    with example.serve(healed=True) as server:
        done = build(example.spec, "--dry-run", "--output", str(tmp_path / "none"))
        assert server.log() == []
    assert not (tmp_path / "none").exists()
    assert "1,000 input rows" in done.stdout
    assert "filtered: where" in done.stdout
    assert "probe -> max_pixels" in done.stdout


def test_a_full_disk_is_one_clear_line_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        folder_of_pictures(tmp_path / "in", 120)
        spec = write_spec(
            tmp_path / "s.yaml",
            {"kind": "folder", "path": "in"},
            [{"kind": "probe"}],
            output={"path": str(disk / "out"), "unit_rows": 20},
        )
        errors = build(spec, code=1).stderr
        assert len(errors.strip().splitlines()) == 1
        assert "No space left on device" in errors
        committed = content(disk / "out")
        assert committed, "the first units fit"
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        build(spec)
        assert committed.items() <= content(disk / "out").items()
        assert len(open_dataset(disk / "out")) == 120
        assert verify_dataset(disk / "out").problems == []
    finally:
        subprocess.run(["umount", str(disk)], check=False)


def test_an_unwritable_output_is_one_clear_line(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 2)
    (tmp_path / "file").write_text("in the way")
    spec = write_spec(
        tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}], output={"path": "file/out"}
    )
    errors = build(spec, code=1).stderr
    assert len(errors.strip().splitlines()) == 1
    assert "file/out" in errors


def test_two_builds_of_one_dataset_do_not_mix(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 30)
    (tmp_path / "slow.py").write_text(
        PLUGIN.replace('endswith("3")', 'endswith("x")').replace("sleep(1000)", "sleep(1)")
    )
    spec = write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "poison"}], plugins=["slow.py"])
    first = subprocess.Popen(command(spec), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/.build/build.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    errors = build(spec, code=1).stderr
    assert "another build is writing" in errors
    assert first.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("source", "path", "output"),
    [
        ("webdataset", "in", "in/out"),
        ("webdataset", "in", "in/deep/er/out"),
        ("webdataset", "link", "in/out"),
        ("webdataset", "in", "link/out"),
        ("webdataset", "{in,none}/**/*.tar", "in/out"),
        ("webdataset", "in/*/*.tar", "in"),
        ("folder", "in", "in/out"),
        ("huggingface", "in", "in/out"),
        ("laion", "in", "in/out"),
        ("laion", "in/**/*.parquet", "in/out"),
        ("video", "in", "in/out"),
        ("interleaved", "in", "in/out"),
        ("html", "in", "in/out"),
    ],
)
def test_an_output_where_the_source_looks_is_refused(tmp_path: Path, source: str, path: str, output: str) -> None:
    """The next run would read the dataset as further input."""
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    given = {"kind": source, "path": path}
    more = {"laion": {"columns": {"url": "URL"}}}.get(source, {})
    spec = write_spec(tmp_path / "s.yaml", {**given, **more}, [], output={"path": output})
    mixed = {"kind": "mixture", "sources": [{"name": "a", "source": {**given, **more}}]}
    for each in (spec, write_spec(tmp_path / "m.yaml", mixed, [], output={"path": output})):
        for flags in ((), ("--dry-run",)):
            said = build(each, *flags, code=2).stderr
            assert "lies in what the source reads (" in said, said
            assert said.count("\n") == 1
    assert not list((tmp_path / "in").iterdir())


def test_an_output_beside_what_the_source_reads_is_not(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 2)
    (tmp_path / "in" / "a.jsonl").write_text('{"image": "0000.jpg", "text": "a"}\n')
    for path in ("in", "in/*.jsonl", "in/a.jsonl"):
        spec = write_spec(tmp_path / "s.yaml", {"kind": "jsonl", "path": path}, [], output={"path": "in/out"})
        build(spec)
        build(spec)
        shutil.rmtree(tmp_path / "in" / "out")
    build(write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [], output={"path": "in-out"}))
