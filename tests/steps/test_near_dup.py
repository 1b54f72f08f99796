"""The perceptual hash against an independent one and on real photographs; the decisions against brute force."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mmdata.decode.work import Work
from mmdata.steps.near_dup import PREVIEW, NearDup, phash
from mmdata.types import Drop, Media, Origin, Sample

skimage = pytest.importorskip("skimage")
sklearn = pytest.importorskip("sklearn")

NAMES = (
    "astronaut.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png "
    "moon.png motorcycle_left.png retina.jpg rocket.jpg"
)


def photographs() -> dict[str, Image.Image]:
    folder = Path(skimage.__file__).parent / "data"
    files = [path for name in NAMES.split() if (path := folder / name).exists()]
    files += sorted((Path(sklearn.__file__).parent / "datasets" / "images").glob("*.jpg"))
    assert len(files) >= 8
    return {path.name: Image.open(path).convert("RGB") for path in files}


PHOTOS = photographs()


def encoded(picture: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **({"compress_level": 1} if format == "PNG" else {}) | options)
    return file.getvalue()


def hashed(data: bytes) -> int:
    value = phash(Work().preview(Media(kind="image", data=data), PREVIEW))
    assert value is not None
    return value


@cache
def original(name: str) -> int:
    return hashed(encoded(PHOTOS[name]))


def distance(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def margins(pixels: np.ndarray) -> np.ndarray:
    """How far each frequency is above the median, f64[64]: the recipe once more, by repetition and scipy's DCT."""
    height, width = pixels.shape[:2]
    luma = (pixels * [0.299, 0.587, 0.114]).sum(axis=2)
    fine = luma.repeat(32, axis=0).repeat(32, axis=1)
    cells = fine.reshape(32, height, 32, width).mean(axis=(1, 3))
    low = scipy.fft.dctn(cells, type=2)[:8, :8].ravel()
    return low - np.median(low)


def check_against_scipy(pixels: np.ndarray) -> None:
    value = phash(pixels)
    assert value is not None
    bits = np.array([value >> (63 - n) & 1 for n in range(64)], dtype=bool)
    above = margins(pixels)
    # Ours is in whole units of 1/256 grey level and 1/4096 of a cosine: nearer than that, neither is right.
    clear = np.abs(above) > 2e-4 * np.abs(above).max() + 4 * 32 * 32 / 256
    assert clear.sum() > 40
    assert np.array_equal(bits[clear], above[clear] > 0)


@pytest.mark.parametrize("name", PHOTOS)
def test_the_hash_is_that_of_an_independent_implementation(name: str) -> None:
    small = PHOTOS[name].copy()
    small.thumbnail((150, 110))
    check_against_scipy(np.asarray(small))


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (31, 33), (32, 32), (64, 200), (3, 300)])
def test_the_hash_of_odd_shapes(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    if shape == (1, 1):
        assert phash(pixels) is None
    else:
        check_against_scipy(pixels)


COPIES = {
    "jpeg 75": lambda p: encoded(p, "JPEG", quality=75),
    "jpeg 30": lambda p: encoded(p, "JPEG", quality=30),
    "webp 50": lambda p: encoded(p, "WEBP", quality=50),
    "half": lambda p: encoded(p.resize((p.width // 2, p.height // 2), Image.Resampling.LANCZOS)),
    "quarter, jpeg": lambda p: encoded(p.resize((p.width // 4, p.height // 4)), "JPEG", quality=80),
    "larger": lambda p: encoded(p.resize((p.width * 3 // 2, p.height * 3 // 2))),
    "square": lambda p: encoded(p.resize((256, 256), Image.Resampling.BILINEAR)),
    "grey": lambda p: encoded(p.convert("L")),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_within_the_default_radius(copy: str) -> None:
    radius = NearDup().radius
    far = {name: distance(original(name), hashed(COPIES[copy](p))) for name, p in PHOTOS.items()}
    assert max(far.values()) <= radius, far


def test_slight_crops_mostly_are() -> None:
    def crop(p: Image.Image) -> Image.Image:
        return p.crop((p.width // 100, p.height // 100, p.width * 99 // 100, p.height * 99 // 100))

    near = [distance(original(name), hashed(encoded(crop(p)))) <= NearDup().radius for name, p in PHOTOS.items()]
    assert sum(near) >= 0.85 * len(near)


def test_different_pictures_are_not() -> None:
    """Photographs, and their ninths as pictures of their own."""
    pictures = list(PHOTOS.values())
    for p in PHOTOS.values():
        w, h = p.size
        pictures += [
            p.crop((w * i // 3, h * j // 3, w * (i + 1) // 3, h * (j + 1) // 3)) for i in range(3) for j in range(3)
        ]
    hashes = [value for p in pictures if (value := phash(np.asarray(p.resize((96, 96))))) is not None]
    assert len(hashes) > 90
    table = np.array(hashes, dtype=np.uint64)
    distances = np.bitwise_count(table[:, None] ^ table)[np.triu_indices(len(table), 1)]
    assert distances.min() > NearDup().radius + 3


def sample(key: str, *media: Media) -> Sample:
    return Sample(key=key, parts=media, origin=Origin(uri="t", row=0))


def test_flat_pictures_have_no_hash() -> None:
    step = NearDup()
    draw = np.random.default_rng(0)
    noise = np.clip(draw.normal(128, 12, (200, 300, 3)), 0, 255).astype(np.uint8)
    for flat in (np.full((50, 60, 3), 200, np.uint8), np.zeros((1, 1, 3), np.uint8), noise):
        data = encoded(Image.fromarray(flat))
        assert step.signature(sample("a", Media(kind="image", data=data)), Work()) == {}
    # A faint gradient, ten grey levels in all, is structure.
    faint = np.broadcast_to(np.linspace(120, 130, 300)[None, :, None], (200, 300, 3)).astype(np.uint8)
    assert phash(faint) is not None
    state = step.state()
    assert state.check("a", {}) is None
    state.keep("a", {})
    assert state.check("b", {}) is None


def test_what_is_no_single_picture_is_left_alone() -> None:
    step = NearDup()
    picture = Media(kind="image", data=encoded(PHOTOS["coffee.png"].resize((90, 60))))
    assert len(step.signature(sample("a", picture), Work())["phash"]) == 8
    assert step.signature(sample("a"), Work()) == {}
    assert step.signature(sample("a", picture, picture), Work()) == {}
    assert step.signature(sample("a", Media(kind="audio", data=b"RIFF")), Work()) == {}


def test_a_real_run() -> None:
    step = NearDup()
    state = step.state()
    photo, other = PHOTOS["coffee.png"], PHOTOS["astronaut.png"]
    rows = {
        "a": encoded(photo),
        "b": encoded(other),
        "c": encoded(photo, "JPEG", quality=60),
        "d": encoded(other.resize((100, 100)), "WEBP"),
    }
    fates = {}
    for key, data in rows.items():
        signature = step.signature(sample(key, Media(kind="image", data=data)), Work())
        drop = state.check(key, signature)
        if drop is None:
            state.keep(key, signature)
        fates[key] = drop and (drop.reason, drop.state, drop.of, drop.detail.split()[0])
    assert fates == {
        "a": None,
        "b": None,
        "c": ("near_dup", "duplicate", "a", "distance"),
        "d": ("near_dup", "duplicate", "b", "distance"),
    }


near = st.builds(
    lambda centre, flips: centre ^ sum({1 << bit for bit in flips}),
    st.sampled_from([0, 2**64 - 1, 0x0123456789ABCDEF]),
    st.lists(st.integers(0, 63), max_size=14),
)


@settings(deadline=None)
@given(st.lists(near, max_size=80), st.integers(0, 16), st.data())
def test_decisions_are_those_of_brute_force(hashes: list[int], radius: int, data: st.DataObject) -> None:
    """A duplicate is within the radius of an earlier kept row, and names the nearest, the earliest of equals; a
    state restored from the kept rows decides the same."""
    rejected = data.draw(st.sets(st.integers(0, 80)))  # By some later step.
    midway = data.draw(st.integers(0, 80))
    step = NearDup(radius=radius)
    state, restored = step.state(), step.state()
    kept: list[tuple[int, int]] = []
    for row, value in enumerate(hashes):
        if row == midway:
            for earlier, id in kept:
                restored.keep(f"k{id}", {"phash": earlier.to_bytes(8, "big")})
        signature = {"phash": value.to_bytes(8, "big")}
        best = min(((distance(value, other), id) for other, id in kept), default=(65, 0))
        expected = None
        if best[0] <= radius:
            expected = Drop(reason="near_dup", detail=f"distance {best[0]}", state="duplicate", of=f"k{best[1]}")
        assert state.check(f"k{row}", signature) == expected
        if row >= midway:
            assert restored.check(f"k{row}", signature) == expected
        if expected is None and row not in rejected:
            kept.append((value, row))
            state.keep(f"k{row}", signature)
            if row >= midway:
                restored.keep(f"k{row}", signature)


@pytest.mark.parametrize("radius", [-1, 17])
def test_radius_bounds(radius: int) -> None:
    with pytest.raises(ValidationError):
        NearDup(radius=radius)
