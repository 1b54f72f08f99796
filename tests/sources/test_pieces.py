"""Clips, segments and pictures that steps have cut, each as a sample of its own, through two builds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmdata.build import build_dataset
from mmdata.forget import forget
from mmdata.ledger import LedgerRow
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.sources import _pieces
from mmdata.types import Media, Origin, Sample, Text
from mmdata.verify import verify_dataset
from tests.building import ledger, write_spec
from tests.sources.run import records, spec, states
from tests.steps.footage import film
from tests.steps.recordings import audio, bursts

FILMS = [
    film(("cat", 20, 1), ("coffee", 30, 1), ("rocket", 20, 1)),  # three scenes
    film(("rocket", 20, 1), ("black", 20, 0), ("cat", 20, 0)),  # one black, one still
    film(("coffee", 24, 2)),  # one scene
]
CUES = [{"start": 0.1, "end": 0.9, "text": "A cat."}, {"start": 2.6, "end": 3.4, "text": "Lift-off!"}]


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films cut into clips, two units; the first has subtitles behind its first and last clip."""
    folder = tmp_path_factory.mktemp("pieces")
    lines = []
    for number, made in enumerate(FILMS):
        (folder / f"{number}.mp4").write_bytes(made.data or b"")
        line = {"video": f"{number}.mp4", "text": f"film {number}", "title": f"t{number}"}
        lines.append(line | ({"subs": CUES} if number == 0 else {}))
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    steps = [{"kind": "scene_clips", "min_scene": 5}, {"kind": "subtitle_align", "column": "subs"}]
    file = write_spec(folder / "s.yaml", {"kind": "jsonl", "path": "in.jsonl"}, steps, output={"unit_rows": 2})
    build_dataset(file, ["engine.workers=1"], quiet=True)
    return folder / "out"


@pytest.fixture(scope="module")
def clips(cut: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[LedgerRow]]:
    steps = [
        {"kind": "probe", "verify": "header"},
        {"kind": "exact_dedup"},
        {"kind": "duration", "max_seconds": 1.3},
        {"kind": "black_frames"},
        {"kind": "motion", "max_static": 0.8},
        {"kind": "split", "by": "parent", "shares": {"train": 1, "test": 1}},
    ]
    out = tmp_path_factory.mktemp("clips") / "out"
    return once(out, {"kind": "dataset", "path": str(cut), "each": "video"}, steps), ledger(out)


def test_a_filter_strikes_clips_and_the_ledger_names_each(clips: tuple[Dataset, list[LedgerRow]], cut: Path) -> None:
    dataset, rows = clips
    films = open_dataset(cut).keys()
    found = dict(zip((row.key for row in rows), states(rows), strict=True))
    assert found == {
        f"{films[0]}-000": "ok",
        f"{films[0]}-001": "filtered:duration",
        f"{films[0]}-002": "ok",
        f"{films[1]}-000": "ok",
        f"{films[1]}-001": "filtered:black_frames",
        f"{films[1]}-002": "filtered:static",
        f"{films[2]}-000": "ok",
    }
    assert verify_dataset(dataset.path).problems == []


def test_clips_know_their_film_their_times_and_their_words(clips: tuple[Dataset, list[LedgerRow]], cut: Path) -> None:
    dataset, _ = clips
    parents = open_dataset(cut)
    first, last = dataset[0], dataset[1]
    told = {name: value for name, value in last.meta.items() if name not in ("split", "motion")}
    assert {name: told[name] for name in ("title", "parent", "piece", "piece_start", "piece_stop")} == {
        "title": "t0",
        "parent": parents.keys()[0],
        "piece": 2,
        "piece_start": 2.5,
        "piece_stop": 3.5,
    }
    assert not {"clips", "spoken"} & last.meta.keys()
    assert [text.text for text in first.texts] == ["A cat.", "film 0"]
    assert [text.text for text in last.texts] == ["Lift-off!", "film 0"]
    assert [text.text for text in dataset[2].texts] == ["film 1"]
    assert last.origin == parents[0].origin
    assert [media.data for media in first.media] == [parents[0].media[0].data]
    assert len({media.sha256 for sample in dataset for media in sample.media}) == len(dataset)


def test_a_split_by_film_never_parts_its_clips(clips: tuple[Dataset, list[LedgerRow]]) -> None:
    dataset, _ = clips
    sets = {(sample.meta["parent"], sample.meta["split"]) for sample in dataset}
    assert len(sets) == len({parent for parent, _ in sets}) == 3


def test_rows_begin_anywhere_and_removed_samples_are_told(cut: Path) -> None:
    source = {"kind": "dataset", "path": str(cut), "each": "video"}
    found = records(source)
    assert [(record.sample.key[-4:], record.sample.meta["piece"]) for record in found] == [
        *(("-000", 0), ("-001", 1), ("-002", 2)) * 2,
        ("-000", 0),
    ]
    assert all(media.data is None and media.place for record in found for media in record.sample.media)
    assert [len(record.sample.media) for record in found] == [1] * 7
    none = records({**source, "each": "image"})
    assert [record.drop.reason for record in none if record.drop] == ["no_pieces"] * 3


def test_pieces_of_a_removed_sample_are_all_removed(cut: Path, tmp_path: Path) -> None:
    shutil.copytree(cut, tmp_path / "copy")
    forget(tmp_path / "copy", [open_dataset(cut).keys()[1]], "opt_out")
    found = records({"kind": "dataset", "path": str(tmp_path / "copy"), "each": "video"})
    assert [record.drop.reason if record.drop else "" for record in found] == ["", "", "", *["forgotten"] * 3, ""]


def once(output: Path, source: dict[str, Any], steps: list[dict[str, Any]]) -> Dataset:
    build_dataset(spec(output, source, steps), quiet=True)
    return open_dataset(output)


def test_segments_of_speech_and_pictures_of_films(cut: Path, tmp_path: Path) -> None:
    """Audio by `voice_activity`, pictures by `keyframe_images`; a second cut keeps the first parent."""
    wave = bursts([(0.5, 1.0), (2.0, 2.6)], 3.0, noise=0.001)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.wav").write_bytes(audio(wave).data or b"")
    source = {"kind": "folder", "path": str(tmp_path / "a"), "audio": ["wav"]}
    once(tmp_path / "segments", source, [{"kind": "voice_activity", "cut": "segments"}])
    segments = once(
        tmp_path / "said",
        {"kind": "dataset", "path": str(tmp_path / "segments"), "each": "audio"},
        [{"kind": "probe", "verify": "header"}],
    )
    assert [sample.meta["piece"] for sample in segments] == [0, 1]
    for sample in segments:
        length = sample.meta["piece_stop"] - sample.meta["piece_start"]
        assert length == pytest.approx(sample.media[0].seconds, abs=0.02)
    each = {"kind": "dataset", "path": str(cut), "each": "video"}
    once(tmp_path / "frames", each, [{"kind": "keyframe_images", "pick": "uniform", "most": 2}])
    pictures = once(tmp_path / "each", {**each, "path": str(tmp_path / "frames"), "each": "image"}, [])
    assert len(pictures) == 14
    assert {sample.meta["parent"] for sample in pictures} == set(open_dataset(cut).keys())
    assert [sample.meta["piece_start"] for sample in pictures][:2] == pytest.approx([0.25, 0.75], abs=0.05)


def test_times_that_are_not_those_of_the_piece_are_left_out() -> None:
    """`voice_activity` tells where voice is also where it cuts nothing."""
    whole = Sample(
        key="a",
        parts=(Media(kind="audio", seconds=5.0), Text(text="t")),
        meta={"speech": [[1.0, 2.0]]},
        origin=Origin(uri="f", row=0),
    )
    assert dict(_pieces.piece(whole, "audio", 0).meta) == {"parent": "a", "piece": 0}
