"""Two answers to one prompt: as lines have them, as one sample of a dataset, as two segments of one pack."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, SpecError
from mmdata.families import get_family
from mmdata.labels import IGNORE
from mmdata.shards.dataset import open_dataset
from mmdata.sources.jsonl import Jsonl, JsonlColumns
from mmdata.stream.loader import StreamLoader
from mmdata.stream.spec import StreamSpec
from mmdata.templates import encode, get_template
from mmdata.types import Origin, Packed, Sample, Text
from tests.building import ledger
from tests.families.processors import tokenizer
from tests.preferences import COUNT, write_lines
from tests.tokenizer_fixture import small_tokenizer


@pytest.fixture(scope="module")
def dataset(preferences: Path) -> Path:
    return preferences


def stream(dataset: Path, **more: Any) -> StreamingDataset:
    told: dict[str, Any] = {"template": "basic", "max_length": 256, "pairs": True, **more}
    words: Any = small_tokenizer()
    family = get_family("llava", tokenizer=words, image={"size": 28, "patch": 14})
    return StreamingDataset(StreamSpec(dataset=str(dataset), **told), family=family)


def test_a_line_with_two_answers_is_one_sample(dataset: Path) -> None:
    samples = list(open_dataset(dataset))
    assert [row.state for row in ledger(dataset)] == ["ok"] * COUNT
    assert [(text.role, text.text) for text in samples[0].texts] == [
        ("user", "Which colour is it?"),
        ("chosen", "It is red."),
        ("rejected", "It is green."),
    ]
    assert [len(sample.media) for sample in samples[:4]] == [1, 1, 1, 0]
    assert samples[3].texts[0].text == "Name the colour yellow."


def test_a_pair_is_two_segments_of_one_pack(dataset: Path) -> None:
    """Never split over packs, each with the whole prompt and its picture; only the answers are trained."""
    words, seen = small_tokenizer(), Counter[str]()
    packs = [pack for pack in stream(dataset) if isinstance(pack, Packed)]
    assert any(len(pack.answers) > 2 for pack in packs)
    for pack in packs:
        assert pack.answers == ("chosen", "rejected") * (len(pack.answers) // 2)
        seen.update(pack.keys[::2])
        assert pack.keys[::2] == pack.keys[1::2]
        assert pack.places[::2] == pack.places[1::2]
        texts = []
        for start, stop in zip(pack.cu_seqlens[:-1], pack.cu_seqlens[1:], strict=True):
            ids, labels = pack.input_ids[start:stop], pack.labels[start:stop]
            assert labels[0] == IGNORE
            assert pack.position_ids[start:stop].tolist() == list(range(stop - start))
            texts.append((ids[labels == IGNORE].tolist(), words.decode(ids[labels != IGNORE])))
        for (prompt, better), (other, worse) in zip(texts[::2], texts[1::2], strict=True):
            assert prompt == other
            assert "It is" in better
            assert "It is" in worse
            assert better != worse
        pictures = pack.media["pixel_values"] if "pixel_values" in pack.media else np.zeros((0, 1))
        assert len(pictures) == len(pack.slots)
        assert (
            all((one == two).all() for one, two in zip(pictures[::2], pictures[1::2], strict=True)) or len(pictures) > 2
        )
    assert seen == Counter(f"{number:09d}" for number in range(COUNT))
    (batch,) = StreamLoader(stream(dataset, max_length=20_000), PackedCollator())
    assert batch["answers"] == ["chosen", "rejected"] * COUNT
    assert len(batch["places"]) == len(batch["tasks"]) == len(batch["cu_seq_lens_q"]) - 1 == 2 * COUNT


def test_both_answers_see_what_chance_made_of_a_picture(dataset: Path) -> None:
    """Drawn sides and dropped patches are one for both answers of a pair, others for other samples, and the same in
    every epoch, whose order differs."""
    words: Any = tokenizer(image="<image>", video="<video>", audio="<audio>")
    seen = get_family("native_navit", tokenizer=words, image={"patch": 4, "low": 8, "high": 40, "drop_mean": 0.3})
    told = StreamSpec(dataset=str(dataset), template="basic", max_length=2000, pairs=True, epochs=2)
    plans: list[dict[int, Any]] = [{}, {}]
    for dealt in StreamingDataset(told, family=seen).deals():
        assert dealt.pack is not None
        for item in dealt.pack.items:
            assert item.media[: len(item.media) // 2] == item.media[len(item.media) // 2 :]
            plans[dealt.pack.epoch][item.position] = item.media
    assert plans[0] == plans[1]
    assert len({media[0].ops for media in plans[0].values() if media}) > COUNT / 2


def test_without_pairs_there_is_the_chosen_answer_alone(dataset: Path) -> None:
    said = [
        small_tokenizer().decode(pack.input_ids[pack.labels != IGNORE])
        for pack in stream(dataset, pairs=False, packing="none", shuffle="none")
        if isinstance(pack, Packed)
    ]
    assert len(said) == COUNT
    assert "red" in said[0]
    assert "green" not in said[0]


def test_a_pair_that_cannot_be_read_is_masked_as_one(dataset: Path) -> None:
    """It keeps its place and length; the samples beside it are accounted for by their own names."""
    whole = stream(dataset, shuffle="none", max_length=20_000)
    (pack,) = [dealt.pack for dealt in whole.deals() if dealt.pack is not None]
    bad = pack.items[5]
    whole.known = lambda item: "damaged" if item is bad or item == bad else None  # type: ignore[method-assign]
    (dealt,) = list(whole.deals())
    packed = whole.read(dealt)
    assert isinstance(packed, Packed)
    assert packed.masked_segments == (10,)
    assert packed.answers[8:13] == ("chosen", "rejected", "", "chosen", "rejected")
    assert int(packed.cu_seqlens[11] - packed.cu_seqlens[10]) == bad.tokens
    whole.account(dealt, packed)
    assert whole.bad == {"damaged": 1}
    assert whole.skips.reason(0, bad.key) == "damaged"


@pytest.mark.parametrize(
    ("line", "texts"),
    [
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, ["2 + 2?", "4", "5"]),
        (
            {"question": "2 + 2?", "chosen": {"role": "assistant", "content": "4"}, "rejected": "5"},
            ["2 + 2?", "4", "5"],
        ),
        (
            {
                "prompt": [{"role": "system", "content": "Count."}, {"role": "user", "content": "2 + 2?"}],
                "chosen": [{"role": "assistant", "content": "4"}],
                "rejected": [{"role": "assistant", "content": "5"}],
            },
            ["Count.", "2 + 2?", "4", "5"],
        ),
        (
            {
                "prompt": "2 + 2?",
                "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
                "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
            },
            ["2 + 2?", "4", "5"],
        ),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "4"}, "pair_same"),
        ({"chosen": "4", "rejected": "5"}, "bad_record"),
        ({"prompt": "2?", "chosen": {"role": "user", "content": "4"}, "rejected": "5"}, "bad_record"),
        ({"prompt": "2?", "chosen": [], "rejected": "5"}, "bad_record"),
        ({"prompt": "2?", "chosen": " ", "rejected": "5"}, "bad_record"),
        (
            {
                "chosen": [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4"}],
                "rejected": [{"role": "user", "content": "3?"}, {"role": "assistant", "content": "5"}],
            },
            "bad_record",
        ),
    ],
)
def test_forms_in_which_people_write_pairs(line: dict[str, Any], texts: list[str] | str, tmp_path: Path) -> None:
    """TRL's (with and without an explicit prompt), LLaMA-Factory's, plain columns; and what is none."""
    (tmp_path / "lines.jsonl").write_text(json.dumps({**line, "n": 1}) + "\n")
    more = {"text": "question"} if "question" in line else {}
    columns = JsonlColumns(chosen="chosen", rejected="rejected", **more)
    (record,) = Jsonl(path=str(tmp_path / "lines.jsonl"), columns=columns).open().records()
    if isinstance(texts, str):
        assert record.drop is not None
        assert record.drop.reason == texts
        return
    assert record.drop is None
    assert [text.text for text in record.sample.texts] == texts
    assert [text.role for text in record.sample.texts[-2:]] == ["chosen", "rejected"]
    assert record.sample.meta == {"n": 1}


def test_what_cannot_be_is_told(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chosen and rejected: a pair has both"):
        JsonlColumns(chosen="better")
    with pytest.raises(ValueError, match="overlong: truncate_text: both answers of a pair have to see the same"):
        stream(dataset, overlong="truncate_text")
    with pytest.raises(
        SpecError, match=r"source\.columns\.rejected: the first lines of pairs.jsonl have no key 'worse'"
    ):
        Jsonl(path=str(write_lines(tmp_path, 2)), columns=JsonlColumns(chosen="chosen", rejected="worse")).open()
    parts = (Text(text="2?", role="user"), Text(text="4", role="chosen"))
    half = Sample(key="a", parts=parts, origin=Origin(uri="tests", row=0))
    words: Any = small_tokenizer()
    (found,) = encode([half], words, get_template("basic"))
    assert isinstance(found, DataError)
    assert found.reason == "pair_incomplete"
