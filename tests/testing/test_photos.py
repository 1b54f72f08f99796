"""Photographs and the pictures cut from them, judged by Pillow and by the definition of the hash."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from mmdata.testing import photos as module
from mmdata.testing.photos import Variant, phash, photos, variants

COUNT = 200


@pytest.fixture(scope="module")
def many() -> list[Variant]:
    return list(variants(COUNT))


def test_photographs_are_there_with_their_licences() -> None:
    found = photos()
    assert len(found) >= 15
    assert len({photo.name for photo in found}) == len(found)
    for photo in found:
        with Image.open(photo.path) as picture:
            picture.load()
        assert photo.licence
        assert photo.package in {"scikit-image", "scikit-learn", "matplotlib"}
        assert 3 <= len(photo.caption.split()) <= 10


def test_packages_are_not_imported() -> None:
    script = (
        "import sys; from mmdata.testing.photos import photos, variants; photos(); next(variants(1));"
        "print([name for name in ('skimage', 'sklearn', 'matplotlib', 'scipy', 'torch') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = (("no_such_package_here", "no-such-package"), "a.png", "CC0", "nothing")
    monkeypatch.setattr(module, "_PHOTOS", (row,))
    with pytest.raises(RuntimeError, match=r"no_such_package_here is not installed.*mmdata\[example\]"):
        photos()
    monkeypatch.setattr(module, "_PHOTOS", ((("skimage", "scikit-image"), "data/gone.png", "CC0", "nothing"),))
    with pytest.raises(RuntimeError, match=r"scikit-image has no data/gone\.png"):
        photos()


def test_variants_are_a_function_of_the_seed(many: list[Variant]) -> None:
    assert list(islice(variants(20), 10)) == many[:10]
    assert next(variants(1, seed=1)) != many[0]


def test_variants_are_what_they_say(many: list[Variant]) -> None:
    for variant in many:
        with Image.open(io.BytesIO(variant.data)) as picture:
            picture.load()
            assert (picture.format or "").lower() == variant.format
            assert picture.size == (variant.width, variant.height)
            assert (phash(picture) ^ variant.phash).bit_count() <= 4  # taken before encoding
        assert min(variant.width, variant.height) >= 256
        assert variant.width * variant.height <= 2_000_000
        assert max(variant.width, variant.height) <= 2.2 * min(variant.width, variant.height)
        assert 3 <= len(variant.caption.split()) <= 15
        assert re.fullmatch(r"[A-Z][A-Za-z,\- ]+", variant.caption), variant.caption
    sizes = [len(variant.data) for variant in many]
    assert 30_000 < sum(sizes) / COUNT < 100_000
    formats = [variant.format for variant in many]
    assert 0.8 < formats.count("jpeg") / COUNT < 0.97
    assert {"png", "webp"} <= set(formats)
    assert len({variant.photo for variant in many}) == len(photos())
    assert len({variant.caption for variant in many}) > COUNT / 2


def test_no_two_variants_are_near_duplicates(many: list[Variant]) -> None:
    assert len({hashlib.sha256(variant.data).digest() for variant in many}) == COUNT
    for hashes in (
        [variant.phash for variant in many],
        [phash(Image.open(io.BytesIO(variant.data)), 1) for variant in many],
    ):
        values = np.array(hashes, dtype=np.uint64)
        distances = np.bitwise_count(values[:, None] ^ values[None, :]).astype(int)
        distances[np.diag_indices(COUNT)] = 64
        assert distances.min() > 8


def test_too_many_variants_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "APART", 40)
    with pytest.raises(RuntimeError, match="of 50 pictures differ by more than 40 bits"):
        list(variants(50))


@pytest.mark.parametrize("lowest", [0, 1])
def test_phash_is_the_dct_written_out(lowest: int) -> None:
    """Against the definition as sums over all pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    n = np.arange(32)

    def coefficient(u: int, v: int) -> float:
        waves = np.outer(np.cos(np.pi * u * (2 * n + 1) / 64), np.cos(np.pi * v * (2 * n + 1) / 64))
        return float((noise * waves).sum())

    frequencies = range(lowest, lowest + 8)
    values = [coefficient(u, v) for u in frequencies for v in frequencies]
    middle = sorted(values)[31:33]
    bits = "".join("1" if value > sum(middle) / 2 else "0" for value in values)
    assert phash(Image.fromarray(noise), lowest) == int(bits, 2)
