"""Buckets: by trying all sizes, and pictures cut to them."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mmdata.steps.aspect_bucket import AspectBucket, made
from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record


def test_made_by_trying_all_sizes() -> None:
    pixels, step, ratio = 512 * 512, 64, 2.5
    sizes = [
        (h, w)
        for h, w in itertools.product(range(step, 2048, step), repeat=2)
        if h * w <= pixels and max(h, w) <= ratio * min(h, w)
    ]
    fullest = [(h, w) for h, w in sizes if not any(a >= h and b >= w and (a, b) != (h, w) for a, b in sizes)]
    assert list(made(pixels, step, ratio)) == fullest


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_the_nearest(height: int, width: int) -> None:
    found = AspectBucket().bucket(height, width)
    apart = {size: abs(math.log(size[1] / size[0] * height / width)) for size in made(1024 * 1024, 64, 2.0)}
    assert apart[found] == pytest.approx(min(apart.values()), abs=1e-8)


def test_a_build(tmp_path: Path) -> None:
    step = {"kind": "aspect_bucket", "buckets": [[64, 64], [48, 96]], "fit": "crop"}
    pictures = [photo(200, 190), photo(300, 120), photo(60, 60), photo(64, 64)]
    data = [save(one, "PNG") for one in pictures]
    built = build(tmp_path, [record(image(one)) for one in data], [{"kind": "probe"}, step])
    assert built.reasons == ["", "", "aspect_bucket", ""]
    sizes = [(sample.media[0].height, sample.media[0].width) for sample in built.samples]
    assert sizes == [(64, 64), (48, 96), (64, 64)]
    assert list(zip(built.column("bucket_height"), built.column("bucket_width"), strict=True)) == sizes
    assert built.samples[2].media[0].data == data[3], "what fits keeps its bytes"


def test_mistakes() -> None:
    with pytest.raises(ValidationError, match="positive"):
        AspectBucket(buckets=((0, 5),))
