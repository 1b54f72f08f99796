"""`--append`: what a source has got since becomes further shards, and nothing that is there is written again."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmdata.build import build_dataset, build_share
from mmdata.errors import RunError, SpecError
from mmdata.forget import forget
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.verify import verify_dataset
from tests.building import build, command, content, folder_of_pictures, ledger, picture, write_spec

ROWS, MORE = 25, 14
STEPS = [{"kind": "probe"}, {"kind": "exact_dedup"}, {"kind": "limit_per", "by": "group", "most": 12}]


def rows(first: int, count: int, folder: Path) -> str:
    """Lines of a list of pictures; each seventh repeats the first one's bytes, and four groups take turns."""
    lines = []
    for number in range(first, first + count):
        name = f"{0 if number % 7 == 6 else number:04d}.jpg"
        lines.append(json.dumps({"image": name, "text": f"picture {number}", "group": f"g{number % 2}"}))
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_pictures(tmp_path_factory.mktemp("append") / "pictures", ROWS + MORE, captions=False)


@pytest.fixture(scope="module")
def base(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec over one file of lines, built."""
    folder = tmp_path_factory.mktemp("append") / "base"
    folder.mkdir()
    (folder / "list.jsonl").write_text(rows(0, ROWS, pictures))
    source = {"kind": "jsonl", "path": "list.jsonl", "root": str(pictures)}
    spec = write_spec(folder / "spec.yaml", source, STEPS, engine={"workers": 1})
    build_dataset(spec, quiet=True)
    return folder


def copied(base: Path, to: Path) -> Path:
    shutil.copytree(base, to)
    return to / "spec.yaml"


def grow(spec: Path, pictures: Path) -> None:
    with open(spec.parent / "list.jsonl", "a") as file:
        file.write(rows(ROWS, MORE, pictures))


@pytest.fixture(scope="module")
def appended(base: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after an append that nothing disturbed, through the command."""
    spec = copied(base, tmp_path_factory.mktemp("append") / "appended")
    grow(spec, pictures)
    assert "add --append to build what is new" in build(spec, code=2).stderr
    build(spec, "--append")
    return spec.parent / "out"


def test_new_lines_become_new_units_behind_the_old_ones(base: Path, appended: Path) -> None:
    """The last old unit stays as short as it was; ordered steps remember what it kept."""
    before, after = content(base / "out"), content(appended)
    assert before.items() < after.items()
    old, new = manifests.read(base / "out"), manifests.read(appended)
    assert [(e.input_first, e.input_rows) for e in new.shards] == [(0, 10), (10, 10), (20, 5), (25, 10), (35, 4)]
    assert list(new.shards)[: len(old.shards)] == list(old.shards)
    assert (old.generation, new.generation) == (0, 1)
    assert new.input_rows == ROWS + MORE == sum(new.counts.values())
    assert new.prefix_digest(3) == old.root_digest
    found = ledger(appended)
    assert [row.row for row in found] == list(range(ROWS + MORE))
    assert ledger(base / "out") == found[:ROWS]
    # Row 27 repeats the first picture, and of the even rows 12 are kept before row 25.
    assert {(row.state, row.of) for row in found if row.row in (27, 34)} == {("duplicate", found[0].key)}
    assert [row.row for row in found if row.reason == "limit_per"] == [r for r in range(ROWS, 39) if old_limit(r)]
    assert verify_dataset(appended).problems == []
    figures = json.loads((appended / "stats.json").read_text())
    assert figures["input_rows"] == ROWS + MORE
    assert [run["records"] for run in figures["run"]["appends"]] == [MORE]
    assert f"{new.samples:,}" in (appended / "README.md").read_text()


def old_limit(row: int) -> bool:
    """Whether twelve kept rows of its group lie before it, counted by hand."""
    mine = [r for r in range(row) if r % 2 == row % 2 and (r % 7 != 6 or r == 0)]
    return len(mine) >= 12 and row % 7 != 6


def test_again_there_is_nothing_to_do(appended: Path) -> None:
    spec = appended.parent / "spec.yaml"
    before = (appended / "manifest.json").read_bytes()
    build_dataset(spec, quiet=True)
    build_dataset(spec, append=True, quiet=True)
    build_dataset(spec, retry=True, quiet=True)
    assert (appended / "manifest.json").read_bytes() == before


@pytest.mark.soak
def test_a_killed_append_ends_with_the_same_bytes(base: Path, appended: Path, pictures: Path, tmp_path: Path) -> None:
    """Killed at each of its visible moments in turn, then run to its end without `--append`."""
    spec = copied(base, tmp_path / "killed")
    grow(spec, pictures)
    out = spec.parent / "out"
    moments: list[Callable[[], bool]] = [
        (out / ".build" / "append.json").exists,
        (out / ".build" / "units" / "000003.json").exists,
        (out / ".build" / "units" / "000004.json").exists,
        (out / ".build" / "publish.json").exists,
    ]
    killed = 0
    for reached in moments:
        process = subprocess.Popen(command(spec, "--append"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not reached():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(60) == -signal.SIGKILL
        if (out / ".build" / "append.json").exists() and not (out / ".build" / "publish.json").exists():
            assert "an append has begun" in verify_dataset(out).problems[0]
    assert killed >= 2
    build(spec)
    assert content(out) == content(appended)
    assert manifests.read(out).root_digest == manifests.read(appended).root_digest
    assert manifests.read(out).generation == 1
    assert verify_dataset(out).problems == []
    assert not (out / ".build" / "append.json").exists()


@pytest.mark.parametrize("mark", ["append", "record", "publish", "manifest"])
def test_every_moment_of_an_append_can_be_the_last(
    base: Path, appended: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str
) -> None:
    """A crash right after each file that decides; readers of the old generation read on until it is published."""
    spec = copied(base, tmp_path / "crashed")
    grow(spec, pictures)

    def crash(*_: object, **__: object) -> None:
        raise KeyError(mark)

    place = {
        "append": "mmdata.engine.binding._keep_listings",
        "record": "mmdata.engine.commit.publish",
        "publish": "mmdata.engine.recover.publish",
        "manifest": "mmdata.engine.binding.end_append",
    }[mark]
    with monkeypatch.context() as patch:
        patch.setattr(place, crash)
        with pytest.raises(KeyError, match=mark):
            build_dataset(spec, append=True, quiet=True)
    out = spec.parent / "out"
    assert manifests.read(out).generation == (1 if mark == "manifest" else 0)
    build_dataset(spec, append=True, quiet=True)
    assert content(out) == content(appended)
    assert manifests.read(out).generation == 1
    assert verify_dataset(out).problems == []


@pytest.mark.parametrize("how", ["changed", "shorter", "gone", "earlier", "unended", "spec"])
def test_other_changes_are_refused(base: Path, pictures: Path, tmp_path: Path, how: str) -> None:
    spec = copied(base, tmp_path / "other")
    file = spec.parent / "list.jsonl"
    lines = file.read_text()
    told = ["output.unit_rows=10"]
    wanted = "list.jsonl: changed since its rows were built; put it back"
    if how == "changed":
        file.write_text(lines.replace("picture 3", "picture X") + rows(ROWS, 1, pictures))
    elif how == "shorter":
        file.write_text(lines[:-30])
    elif how == "gone":
        file.rename(file.with_name("z.jsonl"))
        told.append(f"source.path={spec.parent}/*.jsonl")
        wanted = "list.jsonl: gone, and its rows are built"
    elif how == "earlier":
        (spec.parent / "a.jsonl").write_text(rows(ROWS, 1, pictures))
        told.append(f"source.path={spec.parent}/*.jsonl")
        wanted = "a.jsonl: new, and sorts before list.jsonl, whose rows are built; give it a name that sorts last"
    elif how == "unended":
        shutil.rmtree(spec.parent / "out")
        file.write_text(lines.rstrip("\n"))
        build_dataset(spec, quiet=True)
        file.write_text(lines.rstrip("\n") + " " + rows(ROWS, 1, pictures))
        wanted = "its last line was not ended"
    else:
        grow(spec, pictures)
        told = ["steps.limit_per.most=13"]
        wanted = "steps[2].most: 12 -> 13"
    before = content(spec.parent / "out")
    with pytest.raises(SpecError) as refused:
        build_dataset(spec, told, append=True, quiet=True)
    assert wanted in str(refused.value)
    assert content(spec.parent / "out") == before
    assert not (spec.parent / "out" / ".build" / "append.json").exists()


def test_a_folder_in_which_nothing_was_made_yet_takes_another_spec(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text(rows(0, ROWS, pictures))
    source = {"kind": "jsonl", "path": "list.jsonl", "root": str(pictures)}
    (damaged := tmp_path / "evaluation").mkdir()
    (damaged / "a.jpg").write_bytes((pictures / "0000.jpg").read_bytes()[:700])
    wrong = [{"kind": "probe"}, {"kind": "decontaminate", "against": str(damaged)}]
    spec = write_spec(tmp_path / "spec.yaml", source, wrong, engine={"workers": 1})
    assert "a.jpg" in build(spec, code=2).stderr
    write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe"}], engine={"workers": 1})
    with pytest.raises(SpecError, match="was begun with another spec"):  # others may be at it
        build_share(spec, "0/2", quiet=True)
    assert build(spec).returncode == 0
    assert verify_dataset(tmp_path / "out").problems == []
    write_spec(tmp_path / "spec.yaml", source, [{"kind": "probe", "verify": "header"}], engine={"workers": 1})
    assert "was begun with another spec" in build(spec, code=2).stderr


def test_a_higher_limit_is_an_append(base: Path, appended: Path, pictures: Path, tmp_path: Path) -> None:
    spec = copied(base, tmp_path / "limit")
    grow(spec, pictures)
    shutil.rmtree(spec.parent / "out")
    with pytest.raises(SpecError, match="holds no build"):
        build_dataset(spec, append=True, quiet=True)
    build_dataset(spec, [f"limit={ROWS}"], quiet=True)
    build_dataset(spec, append=True, quiet=True)
    assert content(spec.parent / "out") == content(appended)
    assert manifests.read(spec.parent / "out").spec["limit"] is None


def test_workers_share_an_append(base: Path, appended: Path, pictures: Path, tmp_path: Path) -> None:
    spec = copied(base, tmp_path / "shared")
    grow(spec, pictures)
    for at in range(2):
        build_share(spec, f"{at}/2", append=True, quiet=True)
    with pytest.raises(RunError, match="--retry"):
        build_dataset(spec, retry=True, quiet=True)
    build_dataset(spec, finish=True, quiet=True)
    assert content(spec.parent / "out") == content(appended)
    assert verify_dataset(spec.parent / "out").problems == []


def test_new_files_of_a_folder_come_last_wherever_they_sort(tmp_path: Path) -> None:
    """Two appends; the names of the second lie between those of the first. Rows keep their keys."""
    pictures = folder_of_pictures(tmp_path / "in", 4)
    spec = write_spec(
        tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}], output={"unit_rows": 3}
    )
    build_dataset(spec, quiet=True)
    first = content(tmp_path / "out")
    for names in (("0000a", "zz"), ("0000b",)):
        for name in names:
            picture(100 + len(name) + ord(name[-1])).save(pictures / f"{name}.jpg")
        build_dataset(spec, append=True, quiet=True)
    assert [row.origin for row in ledger(tmp_path / "out")] == [
        *(f"{number:04d}.jpg" for number in range(4)),
        *("0000a.jpg", "zz.jpg", "0000b.jpg"),
    ]
    assert first.items() < content(tmp_path / "out").items()
    assert manifests.read(tmp_path / "out").generation == 2
    assert verify_dataset(tmp_path / "out").problems == []
    build_dataset(spec, quiet=True)  # in the order that was kept: nothing to do
    (pictures / "zz.txt").write_text("a caption that was not there")
    with pytest.raises(SpecError, match=r"zz\.txt: new beside zz\.jpg, which is built"):
        build_dataset(spec, append=True, quiet=True)
    (pictures / "zz.txt").unlink()
    picture(7, (40, 30)).save(pictures / "0002.jpg")
    with pytest.raises(SpecError, match=r"0002\.jpg: [\d,]+ bytes, [\d,]+ when it was built; put it back"):
        build_dataset(spec, append=True, quiet=True)


def test_a_kind_that_cannot_be_appended_to_says_so(tmp_path: Path) -> None:
    pictures = folder_of_pictures(tmp_path / "in", 2)
    parts = [{"name": "a", "source": {"kind": "folder", "path": "in"}}]
    spec = write_spec(tmp_path / "s.yaml", {"kind": "mixture", "sources": parts}, [{"kind": "probe"}])
    build_dataset(spec, quiet=True)
    picture(9).save(pictures / "more.jpg")
    with pytest.raises(SpecError, match="this kind cannot be appended to"):
        build_dataset(spec, append=True, quiet=True)


class Ailing(http.server.SimpleHTTPRequestHandler):
    """Gives pictures once it is well."""

    def do_GET(self) -> None:
        if getattr(self.server, "well", False):
            super().do_GET()
        else:
            self.send_error(503)

    def log_message(self, *_: object) -> None:
        pass


def test_a_retry_goes_to_the_units_that_an_append_has_made(base: Path, pictures: Path, tmp_path: Path) -> None:
    """Their bounds are not multiples of `unit_rows` any more."""
    handler = functools.partial(Ailing, directory=str(pictures))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        spec = tmp_path / "s.yaml"
        (tmp_path / "in.csv").write_text("URL,TEXT\n" + "".join(f"{root}/{n:04d}.jpg,text {n}\n" for n in range(4)))
        fetch = {"retries": 0, "allow_private": True, "respect": {"robots": False}}
        source = {"kind": "laion", "path": "in.csv"}
        write_spec(spec, source, [{"kind": "exact_dedup"}], output={"unit_rows": 3}, fetch=fetch)
        build_dataset(spec, quiet=True)
        with open(tmp_path / "in.csv", "a") as file:
            file.writelines(f"{root}/{n % 5:04d}.jpg,text {n}\n" for n in range(4, 8))
        build_dataset(spec, append=True, quiet=True)
        assert manifests.read(tmp_path / "out").counts["failed_transient"] == 8
        server.well = True  # type: ignore[attr-defined]
        build_dataset(spec, retry=True, quiet=True)
        server.shutdown()
    manifest = manifests.read(tmp_path / "out")
    assert manifest.generation == 2
    assert [(entry.input_first, entry.rows) for entry in manifest.shards] == [(0, 3), (3, 1), (4, 1), (7, 0)]
    assert [row.row for row in ledger(tmp_path / "out") if row.state == "duplicate"] == [5, 6, 7]
    assert verify_dataset(tmp_path / "out").problems == []


def test_a_stream_goes_on_and_takes_what_is_new_from_its_next_epoch(base: Path, appended: Path) -> None:
    before = StreamingDataset(base / "out", seed=3, epochs=2)
    order = [sample.key for sample in before]
    half = len(order) // 4  # in the middle of the first epoch
    stream = StreamingDataset(base / "out", seed=3, epochs=2)
    taken = [sample.key for sample in itertools.islice(stream, half)]
    state = stream.state_dict()
    again = StreamingDataset(appended, seed=3, epochs=2)
    again.load_state_dict(state)
    rest = [sample.key for sample in again]
    first = len(order) // 2
    assert taken + rest[: first - half] == order[:first]
    assert sorted(rest[first - half :]) == open_dataset(appended).keys()


def test_a_dataset_of_ours_that_has_grown_is_appended_to(base: Path, appended: Path, tmp_path: Path) -> None:
    """And refused where what is built from it was removed, or is another dataset."""
    shutil.copytree(base / "out", tmp_path / "in")
    spec = write_spec(tmp_path / "s.yaml", {"kind": "dataset", "path": "in"}, [{"kind": "exact_dedup"}])
    build_dataset(spec, quiet=True)
    shutil.rmtree(tmp_path / "in")
    shutil.copytree(appended, tmp_path / "in")
    first = open_dataset(tmp_path / "out").keys()
    forget(tmp_path / "in", [open_dataset(appended).keys()[-1]], "opt_out")  # of the new ones: no harm
    build_dataset(spec, append=True, quiet=True)
    found = open_dataset(tmp_path / "out")
    assert found.keys() == open_dataset(appended).keys()[:-1]
    assert found.keys()[: len(first)] == first
    assert [row.reason for row in ledger(tmp_path / "out")][-1] == "forgotten"
    forget(tmp_path / "in", [first[0]], "opt_out")
    with pytest.raises(SpecError, match="samples that are built have been removed from the dataset"):
        build_dataset(spec, append=True, quiet=True)
