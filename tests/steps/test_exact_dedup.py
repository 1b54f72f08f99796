"""Exact duplicates: by bytes, by pixels, in input order."""

from __future__ import annotations

import hashlib
import io
import random

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from mmdata.decode.work import Work
from mmdata.steps._kept import Digests, Keys
from mmdata.steps.exact_dedup import ExactDedup
from mmdata.types import Drop, Media, Origin, Sample, Text

PIXELS = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def sample(key: str, *data: bytes, caption: str = "cat", kind: str = "image") -> Sample:
    media = tuple(Media(kind=kind, data=one) for one in data)  # type: ignore[arg-type]
    return Sample(key=key, parts=(*media, Text(text=caption)), origin=Origin(uri="t", row=0))


def fates(step: ExactDedup, samples: list[Sample]) -> list[tuple[str, str] | None]:
    """(key repeated, detail) of each, None for kept ones; and the same once more from a state restored midway."""
    signatures = [(one.key, step.signature(one, Work())) for one in samples]
    state, restored = step.state(), step.state()
    found: list[tuple[str, str] | None] = []
    for at, (key, signature) in enumerate(signatures):
        drop = state.check(key, signature)
        if at >= len(samples) // 2:
            assert restored.check(key, signature) == drop
        if drop is None:
            state.keep(key, signature)
            restored.keep(key, signature)
        else:
            assert (drop.reason, drop.state) == ("exact_dup", "duplicate")
        found.append(None if drop is None else (drop.of or "", drop.detail))
    return found


def test_bytes_and_pixels() -> None:
    png, again, webp = encoded(PIXELS), encoded(PIXELS, compress_level=1), encoded(PIXELS, "WEBP", lossless=True)
    other = PIXELS.copy()
    other[3, 4, 1] ^= 1
    samples = [
        sample("a", png),
        sample("b", png, caption="another"),
        sample("c", again),
        sample("d", webp),
        sample("e", encoded(other)),
        sample("f", encoded(PIXELS.reshape(30, 20, 3))),
        sample("g", webp),
    ]
    pixels = ("a", "same pixels")
    assert fates(ExactDedup(), samples) == [None, ("a", "same bytes"), pixels, pixels, None, None, pixels]
    only_bytes = [None, ("a", "same bytes"), None, None, None, None, ("d", "same bytes")]
    assert fates(ExactDedup(of=("bytes",)), samples) == only_bytes
    assert fates(ExactDedup(of=("pixels",)), samples)[1] == pixels


def test_the_bytes_are_those_of_the_source() -> None:
    """A later step may re-encode: the digest in the facts is of what was fetched."""
    png = encoded(PIXELS)
    fetched = Media(kind="image", data=encoded(PIXELS, "WEBP"), sha256=hashlib.sha256(png).hexdigest())
    samples = [sample("a", png), Sample(key="b", parts=(fetched,), origin=Origin(uri="t", row=1))]
    assert fates(ExactDedup(of=("bytes",)), samples) == [None, ("a", "same bytes")]


def test_several_media_and_none() -> None:
    one, two = encoded(PIXELS), encoded(PIXELS[::-1])
    samples = [
        sample("a", one, two),
        sample("b", two, one),
        sample("c", one),
        sample("d", one, two),
        sample("e"),
        sample("f"),
    ]
    assert fates(ExactDedup(), samples) == [None, None, None, ("a", "same bytes"), None, None]


def test_texts_count_where_they_are_asked_for() -> None:
    """The same question about the same picture is one; another question, another picture, or the same words in another
    order of parts are not. Words alone can be repeated too."""
    one, two = encoded(PIXELS), encoded(PIXELS[::-1])
    turned = Sample(key="e", parts=tuple(reversed(sample("e", one).parts)), origin=Origin(uri="t", row=0))
    samples = [
        sample("a", one),
        sample("b", one, caption="dog"),
        sample("c", two),
        sample("d", one),
        turned,
        sample("f"),
        sample("g"),
    ]
    for of in (("bytes",), ("pixels",)):
        again = f"same {of[0]}"
        found = fates(ExactDedup(of=of, texts=True), samples)  # type: ignore[arg-type]
        assert found == [None, None, None, ("a", again), None, None, ("f", again)]


def test_video_and_audio_by_their_bytes() -> None:
    samples = [
        sample("a", b"RIFF", kind="audio"),
        sample("b", b"RIFF", kind="audio"),
        sample("c", b"mp4", kind="video"),
    ]
    assert fates(ExactDedup(), samples) == [None, ("a", "same bytes"), None]


def test_a_rejected_row_is_not_remembered() -> None:
    step = ExactDedup(of=("bytes",))
    state = step.state()
    first, second = (step.signature(sample(key, b"x"), Work()) for key in "ab")
    assert state.check("a", first) is None  # ... and another step drops it.
    assert state.check("b", second) is None
    state.keep("b", second)
    assert state.check("c", first) == Drop(reason="exact_dup", detail="same bytes", state="duplicate", of="b")
    state.keep("d", {})  # A row of which nothing is known to this step.
    assert state.check("e", {}) is None


@pytest.mark.parametrize("of", [(), ("bytes", "bytes"), ("size",)])
def test_what_to_compare(of: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        ExactDedup(of=of)  # type: ignore[arg-type]


def test_needs_pixels() -> None:
    assert ExactDedup().needs_pixels
    assert not ExactDedup(of=("bytes",)).needs_pixels
    assert Work.for_steps([ExactDedup()]).needs_pixels


def test_digests_are_a_dict() -> None:
    draw = random.Random(0)
    digests, truth = Digests(), {}
    # Few different low halves: long runs of probes, and entries that differ in their high half only.
    pool = [draw.randbytes(2) + bytes(6) + draw.randbytes(1) + bytes(7) for _ in range(20_000)]
    pool += [draw.randbytes(16) for _ in range(20_000)]
    for position, digest in enumerate(pool):
        assert digests.find(digest) == truth.get(digest)
        digests.add(digest, position)
        truth.setdefault(digest, position)
    assert all(digests.find(digest) == position for digest, position in truth.items())
    with pytest.raises(ValueError, match="16 bytes"):
        digests.find(b"short")


def test_keys() -> None:
    keys = Keys()
    names = [f"{n:09d}" for n in range(1000)] + ["", "ünïcode", ""]
    assert [keys.append(name) for name in names] == list(range(len(names)))
    assert [keys[n] for n in range(len(keys))] == names
