"""Resizing: bit for bit what torchvision gives, whatever the size, type, layout and filter."""

from __future__ import annotations

import subprocess
import sys

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import assume, given, settings
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize_image

from mmdata.views import resample

SIDES = st.integers(1, 70)


@settings(max_examples=120, deadline=None)
@given(
    old=st.tuples(SIDES, SIDES),
    new=st.tuples(SIDES, SIDES),
    lead=st.sampled_from([(), (1,), (3,), (2, 2)]),
    filter=st.sampled_from(["bilinear", "bicubic", "lanczos"]),
    floats=st.booleans(),
    last=st.booleans(),
    cut=st.integers(0, 3),
)
def test_as_torchvision(old, new, lead, filter, floats, last, cut) -> None:  # type: ignore[no-untyped-def]
    assume(new != (1, 1))  # torch itself fails then; `pixels` knows
    height, width = old
    shape = (*lead, height, width + cut, 3) if last else (*lead, 3, height, width + cut)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(height))
    image = (image.movedim(-1, -3) if last else image)[..., :width]
    image = image.to(torch.float32) if floats else image
    found = resample.resize(image, *new, filter)
    expected = resize_image(image, list(new), InterpolationMode(filter), antialias=True)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("filter", ["bilinear", "bicubic", "lanczos"])
def test_where_the_processor_rounds_later(filter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    resample._native.cache_clear()
    image = torch.randint(0, 256, (3, 40, 52), dtype=torch.uint8)
    expected = resize_image(image, [17, 90], InterpolationMode(filter), antialias=True)
    assert torch.equal(resample.resize(image, 17, 90, filter), expected)  # type: ignore[arg-type]
    monkeypatch.undo()
    resample._native.cache_clear()


def test_the_stream_does_not_import_torchvision() -> None:
    """Nor with it torch's compiler, which together take longer than all that a worker needs."""
    code = "import sys, mmdata.stream.workers, mmdata.collate; print(*[n for n in sys.modules if n in sys.argv[1:]])"
    listed = subprocess.run(
        [sys.executable, "-c", code, "torchvision", "torch._dynamo", "nvidia.dali", "transformers", "av"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == []
