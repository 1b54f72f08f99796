"""Adopting others' tars: webdataset's writer, GNU and PAX names, Energon folders; what is read is what they hold."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset as wds

from mmdata import StreamingDataset, ledger
from mmdata.decode.work import Work
from mmdata.engine.adopt import prober
from mmdata.errors import DataError, SpecError
from mmdata.index import index_tars, main
from mmdata.report import report
from mmdata.shards.access import open_source
from mmdata.shards.dataset import open_dataset
from mmdata.shards.foreign_tar import TarPass
from mmdata.sources._energon import braces
from mmdata.sources.webdataset import WebDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Drop, Media, Origin, Sample, Text
from mmdata.verify import main as verify_main
from mmdata.verify import verify_dataset
from tests.dataset_fixture import jpeg
from tests.decode.test_glance import COMMON, UNUSUAL


def write_tars(folder: Path, count: int = 3, each: int = 5) -> list[Path]:
    """Tars by webdataset's own writer, each sample a picture, a text and a JSON object."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for tar in range(count):
        paths.append(folder / f"set-{tar:03d}.tar")
        with wds.TarWriter(str(paths[-1])) as writer:
            for number in range(tar * each, (tar + 1) * each):
                data, caption, height, width = jpeg(number)
                writer.write(
                    {"__key__": f"part/{number:05d}", "jpg": data, "txt": caption, "json": {"h": height, "w": width}}
                )
    return paths


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def fates(folder: Path) -> list[tuple[str, str, str]]:
    found = [row for path in sorted((folder / "ledger").iterdir()) for row in ledger.read_rows(path)]
    return [(row.key, row.state, row.reason) for row in found]


def test_webdatasets_tars_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    paths = write_tars(tmp_path / "tars")
    before = [path.read_bytes() for path in paths]
    assert main([str(tmp_path / "tars" / "set-{000..002}.tar"), "--output", str(tmp_path / "d"), "--quiet"]) == 0
    dataset = open_dataset(tmp_path / "d")
    theirs = list(wds.WebDataset([str(path) for path in paths], shardshuffle=False))
    assert dataset.keys() == [sample["__key__"] for sample in theirs]
    for position, their in enumerate(theirs):
        sample = dataset[position]
        assert sample.media[0].data == their["jpg"]
        assert sample.texts[0].text.encode() == their["txt"]
        assert sample.meta == json.loads(their["json"])
        assert (sample.media[0].height, sample.media[0].width) == (sample.meta["h"], sample.meta["w"])
        assert {name: bytes(data) for name, data in dataset.raw(position)[1].items()} == {
            name: data for name, data in their.items() if not name.startswith("__")
        }
    assert [path.read_bytes() for path in paths] == before
    assert verify_dataset(tmp_path / "d").problems == []
    streamed = [sample for sample in StreamingDataset(tmp_path / "d", seed=1) if isinstance(sample, Sample)]
    assert sorted(sample.key for sample in streamed) == dataset.keys()


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int) -> None:
    names = ["a.jpg", "dir/" * 10 + "b.txt", "c.json"]
    if form != tarfile.USTAR_FORMAT:
        names += ["long/" * 50 + "d" * 120 + ".txt", "ünïcödé/名前.txt"]
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w", format=form, pax_headers={"comment": "global"}) as tar:
        folder = tarfile.TarInfo("dir")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, name in enumerate(names):
            add(tar, name, os.urandom(300 * number))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd" * 20 if form != tarfile.USTAR_FORMAT else "/x"
        tar.addfile(link)
        add(tar, "last.txt", b"end")
    whole = TarPass(open_source(path))
    found = [(member.name, member.offset, member.data) for member in whole.members()]
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, tar.extractfile(m).read()) for m in tar if m.isreg()]  # type: ignore[union-attr]
    assert found == expected
    import hashlib

    assert whole.sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sizes_in_base_256_are_read(tmp_path: Path) -> None:
    data, out = b"x" * 700, io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "a.txt", data)
    raw = bytearray(out.getvalue())
    raw[124:136] = b"\x80" + (700).to_bytes(11, "big")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\x00 " % sum(raw[:512])
    (tmp_path / "t.tar").write_bytes(raw)
    assert [member.data for member in TarPass(open_source(tmp_path / "t.tar")).members()] == [data]


def test_a_cut_or_flipped_header_is_named(tmp_path: Path) -> None:
    (path,) = write_tars(tmp_path, count=1, each=2)
    data = path.read_bytes()
    for at in [1, 300, 600, 1100, len(data) // 2]:
        path.write_bytes(data[:at])
        with pytest.raises(DataError, match="shard_cut"):
            list(TarPass(open_source(path)).members())
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match="shard_header"):
        list(TarPass(open_source(path)).members())


def adopt_members(tmp_path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(tmp_path / "t.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in members:
            add(tar, name, data)
    index_tars([str(tmp_path / "t.tar")], tmp_path / "d", quiet=True)
    return tmp_path / "d"


def test_what_cannot_be_used_is_in_the_ledger_with_its_reason(tmp_path: Path) -> None:
    picture = jpeg(0)[0]
    folder = adopt_members(
        tmp_path,
        [
            ("good.jpg", picture),
            ("good.TXT", b"a picture"),
            ("damaged.jpg", b"<html>gone</html>"),
            ("twice.jpg", picture),
            ("twice.jpg", picture),
            ("../up.jpg", picture),
            ("odd\x07.jpg", picture),
            ("numbers.npy", b"123"),
            ("json.jpg", picture),
            ("json.json", b"{not json"),
            ("latin.txt", "é".encode("latin-1")),
            ("good.jpg", picture),
            ("noextension", b"passed over"),
        ],
    )
    assert [fate[1:] for fate in fates(folder)] == [
        ("ok", ""),
        ("failed_permanent", "html_not_image"),
        ("failed_permanent", "duplicate_member"),
        ("failed_permanent", "member_name"),
        ("failed_permanent", "member_name"),
        ("failed_permanent", "no_parts"),
        ("failed_permanent", "bad_record"),
        ("failed_permanent", "text_not_utf8"),
        ("duplicate", "duplicate_key"),
    ]
    dataset = open_dataset(folder)
    assert dataset.keys() == ["good"]
    assert dataset[0].texts[0].text == "a picture"
    assert verify_dataset(folder).problems == []


def test_conversations_and_captions_in_json_are_texts(tmp_path: Path) -> None:
    one, two = jpeg(0)[0], jpeg(1)[0]
    talk = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A picture."}]
    members = [
        ("a.jpg", one),
        ("a.json", json.dumps({"id": 7, "conversations": talk}).encode()),
        ("b.jpg", two),
        ("b.json", json.dumps(talk).encode()),
        ("c.jpg", one),
        ("c.json", json.dumps({"caption": "a caption", "n": 1}).encode()),
        ("d.0.jpg", one),
        ("d.1.jpg", two),
        ("d.txt", b"two pictures"),
        ("e.json", json.dumps(talk).encode()),
    ]
    folder = adopt_members(tmp_path, members)
    dataset = open_dataset(folder)
    assert dataset.keys() == ["a", "b", "c", "d", "e"]

    def shape(sample: Sample) -> list[Any]:
        return [(part.role, part.text) if isinstance(part, Text) else part.data for part in sample.parts]

    said = [("user", "What is it?"), ("assistant", "A picture.")]
    assert shape(dataset["a"]) == [one, *said]
    assert dataset["a"].meta["id"] == 7
    assert shape(dataset["b"]) == [two, *said]
    assert shape(dataset["c"]) == [one, ("caption", "a caption")]
    assert shape(dataset["d"]) == [one, two, ("caption", "two pictures")]
    assert shape(dataset["e"])[0][1].startswith("<image>")  # there is none: the tag is text
    assert all(isinstance(media[0], Media) for media in dataset.media_at([0, 1, 2, 3]))  # type: ignore[arg-type]
    assert verify_dataset(folder).problems == []


def test_a_damaged_tar_gives_what_is_whole_before_the_damage(tmp_path: Path) -> None:
    (path,) = write_tars(tmp_path / "tars", count=1, each=4)
    data = path.read_bytes()
    with tarfile.open(path) as tar:
        cut = next(member.offset_data for member in tar if member.name.endswith("00002.json")) + 3
    path.write_bytes(data[:cut])
    index_tars([str(path)], tmp_path / "d", quiet=True)
    assert [(state, reason) for _, state, reason in fates(tmp_path / "d")] == [
        ("ok", ""),
        ("ok", ""),
        ("failed_permanent", "shard_cut"),
    ]
    assert open_dataset(tmp_path / "d")[1].media[0].data == jpeg(1)[0]
    assert verify_dataset(tmp_path / "d").problems == []


def test_a_tar_that_changes_afterwards_is_told(tmp_path: Path) -> None:
    (path,) = write_tars(tmp_path / "tars", count=1, each=2)
    index_tars([str(path)], tmp_path / "d", quiet=True)
    place = open_dataset(tmp_path / "d").row(1).parts[0].place
    assert place is not None
    data = bytearray(path.read_bytes())
    data[place.offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="part_crc32c"):
        open_dataset(tmp_path / "d")[1]
    assert any("part_crc32c" in problem for problem in verify_dataset(tmp_path / "d").problems)
    path.unlink()
    with pytest.raises(DataError, match="shard_missing"):
        open_dataset(tmp_path / "d")[0]
    assert verify_dataset(tmp_path / "d").problems


def test_an_energon_folder_gives_its_split(tmp_path: Path) -> None:
    write_tars(tmp_path, count=4, each=3)
    (tmp_path / ".nv-meta").mkdir()
    (tmp_path / ".nv-meta" / ".info.json").write_text(
        json.dumps({"energon_version": "7.0.0", "shard_counts": {f"set-{n:03d}.tar": 3 for n in range(4)}})
    )
    (tmp_path / ".nv-meta" / "split.yaml").write_text(
        "exclude:\n- set-001.tar\n- set-002.tar/1\n"
        "split_parts:\n  train:\n  - set-{000..002}.tar\n  val:\n  - set-003.tar\n  test: []\n"
    )
    index_tars([str(tmp_path)], tmp_path / "d", quiet=True)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.keys() == [f"part/{number:05d}" for number in (0, 1, 2, 6, 8)]
    assert ("part/00007", "filtered", "excluded") in fates(tmp_path / "d")
    index_tars([str(tmp_path)], tmp_path / "v", split="val", quiet=True)
    assert len(open_dataset(tmp_path / "v")) == 3
    with pytest.raises(SpecError, match="no split 'other'"):
        index_tars([str(tmp_path)], tmp_path / "o", split="other", quiet=True)


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", count=12, each=12)
    index_tars([str(tmp_path / "tars")], tmp_path / "whole", quiet=True)
    command = [sys.executable, "-m", "mmdata.index", str(tmp_path / "tars"), "--output", str(tmp_path / "d"), "--quiet"]
    units = tmp_path / "d" / ".build" / "units"
    for wanted in (1, 5, 9):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and (not units.is_dir() or len(list(units.glob("*.json"))) < wanted):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, check=False, timeout=120, stdout=subprocess.DEVNULL).returncode == 0
    for name in ("index", "ledger"):
        for path in (tmp_path / "whole" / name).iterdir():
            if name == "index":
                assert (tmp_path / "d" / name / path.name).read_bytes() == path.read_bytes()
    assert open_dataset(tmp_path / "d").manifest.root_digest == open_dataset(tmp_path / "whole").manifest.root_digest
    assert verify_dataset(tmp_path / "d").problems == []


def test_tars_behind_a_url_are_read_by_place(tmp_path: Path) -> None:
    import fsspec

    (path,) = write_tars(tmp_path, count=1, each=3)
    fsspec.filesystem("memory").pipe_file("/adopted/set.tar", path.read_bytes())
    index_tars(["memory://adopted/set.tar"], tmp_path / "d", quiet=True)
    dataset = open_dataset(tmp_path / "d")
    assert [sample.media[0].data for sample in dataset] == [jpeg(number)[0] for number in range(3)]
    assert verify_dataset(tmp_path / "d").problems == []


def test_wrong_sources_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_tars(tmp_path / "tars", count=2, each=1)
    assert main([str(tmp_path / "nothing*.tar"), "--output", str(tmp_path / "d"), "--quiet"]) == 2
    assert "no tar or table there" in capsys.readouterr().err
    assert main([str(tmp_path / "no.tar"), "--output", str(tmp_path / "d"), "--quiet"]) == 2
    index_tars([str(paths[0])], tmp_path / "d", quiet=True)
    assert main([str(paths[1]), "--output", str(tmp_path / "d"), "--quiet"]) == 2
    assert "begun with other files" in capsys.readouterr().err
    with pytest.raises(SpecError, match="named twice"):
        index_tars([str(paths[0]), str(paths[0])], tmp_path / "e", quiet=True)
    assert braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]


def test_digests_of_media_and_the_report_are_options(tmp_path: Path) -> None:
    import hashlib

    (path,) = write_tars(tmp_path, count=1, each=3)
    assert main([str(path), "--output", str(tmp_path / "plain"), "--quiet", "--no-report"]) == 0
    assert main([str(path), "--output", str(tmp_path / "d"), "--quiet", "--digest", "sha256"]) == 0
    plain, whole = open_dataset(tmp_path / "plain"), open_dataset(tmp_path / "d")
    for number in range(3):
        parts = whole.row(number).parts
        assert parts[0].sha256 == hashlib.sha256(jpeg(number)[0]).hexdigest()
        assert plain.row(number).parts == (parts[0]._replace(sha256=None), *parts[1:])
    assert not (tmp_path / "plain" / "report.html").exists()
    assert (tmp_path / "d" / "report.html").exists()
    assert verify_dataset(tmp_path / "plain").problems == verify_dataset(tmp_path / "d").problems == []
    assert report(tmp_path / "plain").exists()
    assert verify_dataset(tmp_path / "plain").problems == []
    with pytest.raises(SpecError, match="begun with other files or options"):
        index_tars([str(path)], tmp_path / "d", quiet=True)


@pytest.mark.parametrize("verify", ["header", "full"])
def test_pictures_of_all_kinds_have_the_facts_that_probe_finds(tmp_path: Path, verify: str) -> None:
    held = {name.replace(" ", ""): data for name, data in (COMMON | UNUSUAL).items() if data}
    members = [(f"{name}.jpg", data) for name, data in held.items()]
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, data in members:
            add(tar, name, data)
    index_tars([str(tmp_path / "t.tar")], tmp_path / "d", verify=verify, quiet=True, report=False)  # type: ignore[arg-type]
    dataset, probe = open_dataset(tmp_path / "d"), prober(verify, "crc32c")  # type: ignore[arg-type]
    dropped = {key: reason for key, state, reason in fates(tmp_path / "d") if state != "ok"}
    assert list(held) == [key for key, _, _ in fates(tmp_path / "d")]
    assert dropped
    for key, data in held.items():
        origin = Origin(uri="t.tar", row=0)
        sample = Sample(key=key, parts=(Media(kind="image", data=data),), origin=origin)
        probed = probe.apply(sample, Work(max_pixels=probe.max_pixels))
        if isinstance(probed, Drop):
            assert dropped[key] == probed.reason
        else:
            found = dataset[key].media[0]
            assert replace(found, place=None, uri=None) == probed.media[0]


def test_an_index_without_sums_says_that_it_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_tars(tmp_path / "tars", count=2, each=3)
    summed, bare = tmp_path / "summed", tmp_path / "bare"
    index_tars([str(tmp_path / "tars")], summed, quiet=True, report=False)
    index_tars([str(tmp_path / "tars")], bare, quiet=True, digest="none")
    ours, theirs = open_dataset(bare), open_dataset(summed)
    assert (ours.unsummed, theirs.unsummed) == (2, 0)
    assert ours.keys() == theirs.keys()
    for position in range(len(theirs)):
        row = theirs.row(position)
        assert ours.row(position) == replace(row, parts=tuple(part._replace(crc32c=None) for part in row.parts))
        assert ours.raw(position)[1] == theirs.raw(position)[1]
        assert ours[position].media[0].data == theirs[position].media[0].data
    tables = [ledger.read_rows(folder / "ledger" / "000001.parquet") for folder in (bare, summed)]
    assert tables[0] == tables[1]
    # Every place is checked, and that bytes are not is said.
    found = verify_dataset(bare)
    assert (found.problems, found.unsummed, found.samples) == ([], 2, 6)
    assert verify_main([str(bare)]) == 0
    assert "2 shards were indexed without sums, their bytes are unchecked" in capsys.readouterr().out
    with pytest.raises(SpecError, match="integrity: off"):
        StreamingDataset(bare, seed=1)
    unchecked = StreamingDataset(StreamSpec(dataset=str(bare), integrity="off", seed=1))
    streamed = [sample for sample in unchecked if isinstance(sample, Sample)]
    assert sorted(sample.key for sample in streamed) == theirs.keys()
    data = bytearray(paths[0].read_bytes())
    place = ours.row(0).parts[0].place
    assert place is not None
    data[place.offset + 700] ^= 1
    paths[0].write_bytes(data)
    assert ours[0].media[0].data != jpeg(0)[0]  # nobody can tell
    assert verify_dataset(bare).problems == []
    data[place.offset - 512] ^= 1  # the name in its header
    paths[0].write_bytes(data)
    assert any("shard_header" in problem for problem in verify_dataset(bare).problems)
    paths[0].write_bytes(data[:-1024])
    assert any("file_size" in problem for problem in verify_dataset(bare).problems)


@pytest.mark.parametrize("digest", ["crc32c", "sha256", "none"])
def test_a_tar_without_the_blocks_that_end_it_is_whole(tmp_path: Path, digest: str) -> None:
    """As other readers see it; one that ends within a member, a name, or before any, is cut."""
    (path,) = write_tars(tmp_path / "tars", count=1, each=3)
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
        end = last.offset_data + last.size + (-last.size % 512)
    data = path.read_bytes()
    path.write_bytes(data[:end])
    index_tars([str(path)], tmp_path / "d", quiet=True, digest=digest)  # type: ignore[arg-type]
    assert [(state, reason) for _, state, reason in fates(tmp_path / "d")] == [("ok", "")] * 3
    assert verify_dataset(tmp_path / "d").problems == []
    assert [record.drop for record in WebDataset(path=str(path)).open().records()] == [None] * 3
    long = tarfile.TarInfo("x" * 150 + ".txt")
    for tail in (data[:100], long.tobuf(tarfile.GNU_FORMAT)[:1024], long.tobuf(tarfile.PAX_FORMAT)[:1024]):
        path.write_bytes(data[:end] + tail)
        with pytest.raises(DataError, match="shard_cut"):
            list(TarPass(open_source(path)).members())
    path.write_bytes(b"")
    with pytest.raises(DataError, match="shard_cut"):
        list(TarPass(open_source(path)).members())
