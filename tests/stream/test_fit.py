"""No orphan either way: whatever family, policy and limit, placeholders and media of a plan belong together."""

from __future__ import annotations

import functools
import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata import StreamingDataset, rng
from mmdata.families import Family, _AnyToken, get_family
from mmdata.families._family import expand
from mmdata.shards.dataset import open_dataset
from mmdata.stream.fit import trimmed
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position
from mmdata.stream.spec import StreamSpec
from mmdata.templates import encode, get_template
from mmdata.types import Media, MediaKind, Packed, Text
from tests.families.processors import tokenizer
from tests.stream.planning import WORDS, Parts, write_facts

FAMILIES = (
    "gemma3",
    "idefics3",
    "internvl",
    "lfm2_vl",
    "llava",
    "llava_next",
    "llava_onevision",
    "native",
    "paligemma",
    "pix2struct",
    "pixtral",
    "qwen2_5_omni",
    "qwen2_5_vl",
    "qwen2_audio",
    "qwen2_vl",
    "qwen3_vl",
    "siglip2",
    "smolvlm",
    "whisper",
)
POLICIES = ("drop", "truncate_text", "shrink_media")


@functools.cache
def words() -> Any:
    """A tokenizer with the placeholders of all families."""
    anything: Any = _AnyToken()
    rules = [rule for name in FAMILIES for rule in get_family(name, tokenizer=anything).media.values()]
    named = sorted({rule.placeholder for rule in rules if rule.placeholder})
    return tokenizer(**{f"placeholder_{number}": token for number, token in enumerate(named)})


@functools.cache
def taken(name: str) -> Family:
    return get_family(name, tokenizer=words())


@functools.cache
def dataset(name: str) -> Path:
    """Chats of a few exchanges, some about a picture, video or sound."""
    kinds: list[MediaKind] = sorted(taken(name).media)
    draw = rng.generator("orphans", name)
    samples: list[Parts] = []
    for _ in range(30):
        parts: list[Text | Media] = []
        for _ in range(int(draw.integers(1, 4))):
            parts += [
                facts(kinds[int(draw.integers(len(kinds)))], draw)
                for _ in range(int(draw.choice(3, p=[0.3, 0.5, 0.2])))
            ]
            parts.append(Text(text=said(draw), role="user", train=False))
            parts.append(Text(text=said(draw), role="assistant"))
        samples.append(parts)
    return write_facts(Path(tempfile.mkdtemp()) / name, samples)


def said(draw: np.random.Generator) -> str:
    sentences = [" ".join(WORDS[i] for i in draw.integers(0, len(WORDS), 6)) for _ in range(int(draw.integers(1, 9)))]
    return ". ".join(sentences) + "."


def facts(kind: MediaKind, draw: np.random.Generator) -> Media:
    height, width = (int(side) for side in draw.integers(40, 1500, 2))
    frames = int(draw.integers(1, 200))
    match kind:
        case "image":
            return Media(kind=kind, height=height, width=width)
        case "video":
            return Media(kind=kind, height=height, width=width, frames=frames, fps=25.0, seconds=frames / 25)
        case "audio":
            samples = int(draw.integers(4000, 16_000 * 20))
            return Media(kind=kind, samples=samples, sample_rate=16_000, seconds=samples / 16_000)


def check(name: str, policy: str, limit: int, keep: str) -> dict[str, int]:
    """Plan all, then make each sample's ids as the reader does. What was done, by outcome."""
    family = taken(name)
    template = get_template("basic", tokenizer=family.tokenizer)
    spec = StreamSpec(
        dataset=str(dataset(name)),
        max_length=limit,
        overlong=policy,
        truncate_keep=keep,
        block_samples=100,  # type: ignore[arg-type]
    )
    opened = open_dataset(dataset(name))
    block = Planner([opened], spec, family, [template]).block(Position())
    seen = 0
    for pack in block.packs:
        for item in pack.items:
            seen += 1
            assert item.tokens <= limit
            sample = trimmed(opened.sample(item.position, media=False), item.trim)
            (encoded,) = encode([sample], family.tokenizer, template)
            assert not isinstance(encoded, Exception), encoded
            segment = expand(family, encoded, item.media)
            assert len(segment.ids) == item.tokens
            assert len(segment.slots) == len(item.media) == len(sample.media) == len(encoded.media)
            for kind, rule in family.media.items():
                mine = [slot for slot in segment.slots if slot.kind == kind]
                if rule.placeholder is None:
                    continue
                same = [other for other, also in family.media.items() if also.placeholder == rule.placeholder]
                placeholders = int((segment.ids == family.placeholder_id(rule)).sum())
                assert placeholders == sum(slot.tokens for slot in segment.slots if slot.kind in same), (name, kind)
                assert [slot.tokens for slot in mine] == [plan.tokens for plan in item.media if plan.kind == kind]
            assert item.trim is None or policy == "truncate_text"
            assert all(not plan.before or policy == "shrink_media" for plan in item.media)
    assert seen + sum(block.left_out.values()) == 30
    return dict(block.changed)


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=4, deadline=None)
@given(
    policy=st.sampled_from(POLICIES),
    limit=st.integers(4, 12).map(lambda n: int(2 ** (n + 0.5))),
    keep=st.sampled_from(["first", "last"]),
)
def test_placeholders_and_media_belong_together(name: str, policy: str, limit: int, keep: str) -> None:
    check(name, policy, limit, keep)


@pytest.mark.parametrize("name", ["qwen2_vl", "internvl", "idefics3", "llava_next", "pixtral", "native"])
def test_media_are_made_smaller_where_a_view_can(name: str) -> None:
    changed = [check(name, "shrink_media", limit, "first").get("shrunk_media", 0) for limit in (700, 1500, 3000)]
    assert sum(changed) > 3, changed


def test_texts_are_cut_and_media_go_with_their_exchange() -> None:
    assert check("llava", "truncate_text", 800, "first")["truncated_text"] > 5


def test_a_smaller_picture_is_read_as_planned(folder: Path) -> None:
    """Real JPEGs by LLaVA-NeXT: what the model computes from `image_sizes` is the number of placeholders."""
    family = taken("llava_next")
    spec = StreamSpec(dataset=str(folder), max_length=1250, overlong="shrink_media")
    stream = StreamingDataset(spec, family=family)
    assert stream.block().changed["shrunk_media"] > 0
    view = family.media["image"].view
    for pack in stream:
        assert isinstance(pack, Packed)
        assert not pack.masked
        for slot, size, pixels in zip(pack.slots, pack.media["image_sizes"], pack.media["pixel_values"], strict=True):
            as_the_model = view.plan(Media(kind="image", height=int(size[0]), width=int(size[1])))
            assert slot.tokens == as_the_model.tokens
            assert np.abs(pixels[: as_the_model.shape[0]]).max() > 0
    assert not stream.bad


def test_a_shorter_text_is_read_as_planned(folder: Path) -> None:
    whole = StreamingDataset(StreamSpec(dataset=str(folder), max_length=4000), family=taken("llava"))
    longest = max(item.tokens for pack in whole.block().packs for item in pack.items)
    chats = dataset("llava")
    spec = StreamSpec(dataset=str(chats), template="basic", max_length=700, overlong="truncate_text", max_pixels=9)
    stream = StreamingDataset(spec, family=taken("llava"))
    assert longest < 700
    read = 0
    assert stream.block().changed["truncated_text"] > 5
    for pack in stream:
        assert isinstance(pack, Packed)
        assert len(pack.input_ids) <= 700
        masked = {key for key, _ in pack.masked}
        for key, (start, stop) in zip(pack.keys, itertools.pairwise(pack.cu_seqlens), strict=True):
            trained = bool((pack.labels[start:stop] >= 0).any())
            assert trained is (key not in masked), "a picture of a byte cannot be read; a text without one can"
            read += trained
    assert read > 0
