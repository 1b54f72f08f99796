"""Packs of what a build has stored are those of the media themselves, bit for bit; all else falls back, or says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmdata import StreamingDataset, open_dataset
from mmdata.decode.work import Work
from mmdata.engine import commit, recover
from mmdata.families import Family, get_family
from mmdata.ledger import read_rows
from mmdata.shards import manifest as manifests
from mmdata.shards.index import Part
from mmdata.steps.materialize import Materialize
from mmdata.stream.spec import StreamSpec
from mmdata.testing.kill import run_with_kills
from mmdata.types import Packed, Sample
from mmdata.verify import verify_dataset
from mmdata.views.augment import Augment
from tests.building import build, command, content, write_spec
from tests.dataset_fixture import photograph
from tests.decode.clips import clip
from tests.families.processors import tokenizer
from tests.test_media_stream import NAMED, tone

SMALL = {"min_pixels": 56 * 56, "max_pixels": 140 * 140}
ANYRES = {"size": 56, "patch": 14, "pinpoints": [[56, 112], [112, 56], [112, 112]]}
OMNI: dict[str, Any] = {"family": "qwen2_5_omni", "image": SMALL, "video": SMALL}
TILES: dict[str, Any] = {"family": "llava_next", "image": ANYRES}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, clips and sounds, and a sample of two pictures."""
    root = tmp_path_factory.mktemp("materialized")
    lines: list[dict[str, Any]] = []

    def line(**media: Any) -> None:
        said = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": f"It is number {len(lines)}."}]
        lines.append({**media, "messages": said})

    for number, name in enumerate(["coffee", "chelsea", "rocket", "china"]):
        Image.fromarray(photograph(name)[: 200 + 50 * number]).save(root / f"{number}.jpg")
        line(image=f"{number}.jpg")
    line(image=["0.jpg", "2.jpg"])
    for number, (frames, rate) in enumerate([(12, 5), (31, 10)]):
        (root / f"{number}.mp4").write_bytes(clip(frames=frames, rate=Fraction(rate)))
        line(video=f"{number}.mp4")
    for number, (seconds, rate) in enumerate([(1.0, 16_000), (2.3, 44_100)]):
        (root / f"{number}.wav").write_bytes(tone(seconds, rate))
        line(audio=f"{number}.wav")
    (root / "lines.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return root


Built = Callable[..., Path]


@pytest.fixture(scope="module")
def plain(root: Path) -> Path:
    build(spec(root, "plain", "plain"))
    return root / "plain"


@pytest.fixture(scope="module")
def built(root: Path, plain: Path) -> Built:
    """The dataset with these steps done, in this process: as a build makes it (tested below), without its start."""
    made: dict[tuple[str, ...], Path] = {(): plain}

    def build_with(*given: dict[str, Any]) -> Path:
        steps = tuple(Materialize(**step) for step in given)
        key = tuple(json.dumps(step.model_dump(), sort_keys=True) for step in steps)
        if key not in made:
            made[key] = root / f"out{len(made)}"
            write(plain, made[key], steps)
            assert not verify_dataset(made[key]).problems
        return made[key]

    return build_with


def write(plain: Path, folder: Path, steps: tuple[Materialize, ...]) -> None:
    dataset, work = open_dataset(plain), Work()
    commit.prepare(folder)
    entries = []
    for entry in dataset.manifest.shards:
        kept = []
        for position in range(entry.first, entry.first + entry.rows):
            sample = dataset.sample(position)
            for step in steps:
                answer = step.apply(sample, work)
                assert isinstance(answer, Sample), answer
                sample = answer
            work.clear()
            kept.append(commit.Kept(row=dataset.row(position).row, sample=sample, signatures={}))
        rows = read_rows(plain / entry.ledger)
        written, _ = commit.write_unit(folder, entry.unit, entry.input_first, kept, rows)
        commit.publish(folder, written)
        entries.append(replace(written, first=entry.first))
    shutil.rmtree(folder / ".build")
    digest = manifests.root_digest(entries)
    manifests.write(folder, replace(dataset.manifest, shards=entries, root_digest=digest, files={}))


def spec(root: Path, name: str, out: str, *steps: dict[str, Any], **more: Any) -> Path:
    columns = {"image": "image", "video": "video", "audio": "audio"}
    source = {"kind": "jsonl", "path": "lines.jsonl", "columns": columns}
    every = [{"kind": "probe"}, *({"kind": "materialize", **step} for step in steps)]
    return write_spec(root / f"{name}.yaml", source, every, output={"path": out, "unit_rows": 4}, **more)


def family(name: str, **parameters: Any) -> Family:
    return get_family(name, tokenizer=tokenizer(**NAMED, tiles="<image>"), **parameters)


def omni() -> Family:
    return family("qwen2_5_omni", image=SMALL, video=SMALL)


def stream(folder: Path, taken: Family, **options: Any) -> StreamingDataset:
    given = StreamSpec(dataset=str(folder), template="chatml", max_length=4096, seed=3, **options)
    return StreamingDataset(given, family=taken)


def packs(folder: Path, taken: Family, **options: Any) -> list[Packed]:
    made = stream(folder, taken, **options)
    found = [pack for pack in made if isinstance(pack, Packed)]
    assert not made.bad
    return found


def same(a: list[Packed], b: list[Packed]) -> bool:
    return len(a) == len(b) > 0 and all(
        x.keys == y.keys
        and np.array_equal(x.input_ids, y.input_ids)
        and np.array_equal(x.labels, y.labels)
        and x.media.keys() == y.media.keys()
        and all(x.media[n].dtype == y.media[n].dtype and np.array_equal(x.media[n], y.media[n]) for n in x.media)
        for x, y in zip(a, b, strict=True)
    )


def stored(folder: Path) -> list[Part]:
    dataset = open_dataset(folder)
    return [part for at in range(len(dataset)) for part in dataset.row(at).parts if part.kind == "stored"]


@pytest.mark.parametrize(("dtype", "keep"), [(None, True), (None, False), ("float32", False)])
def test_packs_are_the_same_bit_for_bit(built: Built, dtype: str | None, keep: bool) -> None:
    """Patches, frames and log-mel. Without the originals nothing else can have been read."""
    folder = built({**OMNI, "dtype": dtype, "keep_original": keep})
    expected = packs(built(), omni())
    assert {"pixel_values", "pixel_values_videos", "input_features"} <= {
        name for pack in expected for name in pack.media
    }
    assert same(packs(folder, omni()), expected)
    assert sorted({part.format for part in stored(folder)}) == (["float32"] if dtype else ["float32", "uint8"])
    assert len(stored(folder)) == 10


def test_tiles_are_the_same_bit_for_bit(built: Built) -> None:
    """The family takes pictures only: the other samples are as before."""
    taken = family("llava_next", image=ANYRES)
    folder = built({**TILES, "keep_original": False})
    assert same(packs(folder, taken), packs(built(), taken))
    assert stream(folder, taken).block().left_out == stream(built(), taken).block().left_out == {"media_kind": 4}
    assert [bool(medium.data) for sample in open_dataset(folder) for medium in sample.media] == [False] * 6 + [True] * 4


def test_whisper_hears_the_same(built: Built) -> None:
    taken = family("whisper", audio={"padded": 48_000})
    folder = built({"family": "whisper", "audio": {"padded": 48_000}, "keep_original": False})
    assert same(packs(folder, taken), packs(built(), taken))


def test_what_is_stored_is_what_is_read(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded")

    monkeypatch.setattr("mmdata.stream.reader.realize", never)
    assert packs(built(OMNI), omni())
    with pytest.raises(AssertionError, match="decoded"):
        packs(built(OMNI), omni(), materialized="off")


@pytest.mark.parametrize(
    "parameters",
    [
        {"image": {**SMALL, "max_pixels": 112 * 112}},
        {"image": {**SMALL, "backend": "pil"}},
        {"video": {**SMALL, "fps": 1.0}},
        {"audio": {"padded": 48_000}},
    ],
)
def test_anything_else_is_made_of_the_originals(built: Built, parameters: dict[str, Any]) -> None:
    asked = family("qwen2_5_omni", **{"image": SMALL, "video": SMALL, **parameters})
    expected = packs(built(), asked)
    assert same(packs(built(OMNI), asked), expected)
    bare = stream(built({**OMNI, "keep_original": False}), asked)
    kind = next(iter(parameters))
    counts = {"image": 5, "video": 2, "audio": 2}
    assert bare.block().left_out == {"materialized_other": counts[kind]}
    assert len({key for pack in bare for key in pack.keys}) == 9 - counts[kind]  # type: ignore[union-attr]


def test_augmentation_needs_the_originals(built: Built) -> None:
    rules = Augment(crop=(0.3, 0.8))
    assert same(packs(built(OMNI), omni(), augment=rules), packs(built(), omni(), augment=rules))
    left_out = stream(built({**OMNI, "keep_original": False}), omni(), augment=rules).block().left_out
    assert left_out == {"materialized_other": 7}  # sound is not augmented


def test_two_families_lie_side_by_side(built: Built) -> None:
    folder = built(OMNI, TILES)
    assert same(packs(folder, omni()), packs(built(), omni()))
    assert len(stored(folder)) == 16


def test_lossy_is_near_and_by_request_only(built: Built) -> None:
    folder, exact = built({**OMNI, "store": "jpeg"}), packs(built(), omni())
    assert same(packs(folder, omni()), exact)
    near = packs(folder, omni(), materialized="lossy")
    for a, b in zip(near, exact, strict=True):
        for name in ("pixel_values", "pixel_values_videos"):
            if name in b.media:
                assert a.media[name].shape == b.media[name].shape
                assert 0 < np.abs(a.media[name] - b.media[name]).mean() < 0.1
        if "input_features" in b.media:
            assert np.array_equal(a.media["input_features"], b.media["input_features"])
    sizes = [sum(part.size for part in stored(which)) for which in (folder, built(OMNI))]
    assert sizes[0] < sizes[1]


def test_too_large_is_left_as_it_is(built: Built) -> None:
    folder = built({**OMNI, "keep_original": False, "max_bytes": 500_000})
    assert 0 < len(stored(folder)) < 10
    assert same(packs(folder, omni()), packs(built(), omni()))


def test_damage_is_caught_before_it_is_used(built: Built, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built(OMNI), folder)
    shard = folder / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    row = open_dataset(folder).row(1)
    own, made = row.parts[:2] if row.parts[0].kind == "image" else row.parts[1:3]
    data[made.offset + made.size // 2] ^= 1
    shard.write_bytes(data)
    assert any("part_crc32c" in problem for problem in verify_dataset(folder).problems)
    damaged = stream(folder, omni())
    (masked,) = [one for pack in damaged if isinstance(pack, Packed) for one in pack.masked]
    assert masked == (row.key, "part_crc32c")
    assert same(packs(folder, omni(), materialized="off"), packs(built(), omni()))
    data[made.offset + made.size // 2] ^= 1
    data[own.offset + own.size // 2] ^= 1
    shard.write_bytes(data)
    assert same(packs(folder, omni()), packs(built(), omni()))  # what is not read cannot hurt
    assert verify_dataset(folder).problems


@pytest.fixture(scope="module")
def engines(root: Path) -> Path:
    build(spec(root, "engine", "engine", {**OMNI, "keep_original": False}, engine={"workers": 2}))
    return root / "engine"


def test_a_build_stores_it_and_says_how_much(engines: Path, built: Built, plain: Path) -> None:
    assert content(engines) == content(built({**OMNI, "keep_original": False}))
    assert not verify_dataset(engines).problems
    stats, before = (json.loads((folder / "stats.json").read_text()) for folder in (engines, plain))
    assert sum(found["bytes"] for found in stats["stored"].values()) == sum(part.size for part in stored(engines))
    assert stats["parts"]["stored"] == 10
    assert stats["histograms"]["resolution"] == before["histograms"]["resolution"]
    assert stats["histograms"]["media_bytes"]["n"] == 0 < before["histograms"]["media_bytes"]["n"]


def test_builds_are_the_same_however_they_ran(root: Path, engines: Path) -> None:
    """Killed and resumed, with one worker and next to no memory for what waits."""
    few = {"workers": 1, "memory_mib": 1}
    path = spec(root, "killed", "killed", {**OMNI, "keep_original": False}, engine=few)
    runs = run_with_kills(command(path), kills=2, seed=4, seconds=6.0, earliest=2.0)
    assert runs[-1].returncode == 0
    assert content(root / "killed") == content(engines)


@pytest.mark.parametrize("keep", [True, False])
def test_a_unit_that_is_written_again_is_the_same(built: Built, tmp_path: Path, keep: bool) -> None:
    """What `--retry` does to the rows that it keeps."""
    folder = built({**OMNI, "keep_original": keep})
    dataset = open_dataset(folder)
    for name in ("staging", "units"):
        (tmp_path / ".build" / name).mkdir(parents=True)
    for entry in dataset.manifest.shards:
        again, _ = commit.write_unit(tmp_path, entry.unit, entry.input_first, recover.stored(dataset, entry), [])
        assert (again.shard_sha256, again.index_sha256) == (entry.shard_sha256, entry.index_sha256)


def test_samples_without_their_media_say_so(built: Built) -> None:
    plain = StreamingDataset(built({**OMNI, "keep_original": False}))
    assert list(plain) == []
    assert plain.bad == {"materialized_other": 9}
