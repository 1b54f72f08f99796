"""What is kept of a view's output gives it again, bit for bit, for every family; and is known for what it is."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mmdata.errors import DataError, SpecError
from mmdata.families import family_views
from mmdata.registry import kinds
from mmdata.types import Augmented, Flip, Media, MediaPlan, Resize
from mmdata.views import stored
from mmdata.views.anyres import AnyRes
from mmdata.views.mel import Mel
from mmdata.views.navit import NaViT
from mmdata.views.pixels import normalise_on_device
from mmdata.views.qwen import SmartResize
from tests.dataset_fixture import photograph

SIZES = [(96, 128), (300, 451), (61, 700), (1, 1), (40, 3)]
FAMILIES = [name for name in kinds("family") if not name.startswith("_")]


def pixels(height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photograph("coffee")).resize((width, height), Image.Resampling.BICUBIC))


def source(kind: str, size: tuple[int, int], plan: MediaPlan, facts: Media) -> Any:
    if kind == "image":
        return pixels(*size)
    if kind == "video":
        frames = [np.roll(pixels(*size), frame, 1) for frame in plan.frames]
        return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)
    return np.sin(np.arange(facts.samples or 0, dtype=np.float32) / 20) * 0.4


def facts(kind: Any, size: tuple[int, int]) -> Media:
    if kind == "audio":
        return Media(kind=kind, samples=16_000 + size[1], sample_rate=16_000)
    return Media(kind=kind, height=size[0], width=size[1], frames=9, fps=4.0, seconds=2.25)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_bit_for_bit(name: str) -> None:
    checked = 0
    for kind in ("image", "video", "audio"):
        for number in (1, 2):
            try:
                view = family_views(name)([Media(kind=kind)] * number)[0]  # type: ignore[arg-type]
            except DataError:
                continue
            for size in SIZES[: 2 if kind == "video" else None]:
                medium = facts(kind, size)
                try:
                    plan = view.plan(medium)
                except DataError:
                    continue
                given = source(kind, size, plan, medium)
                expected = view.realize(given, plan).numpy()
                for form in {stored.exact_format(view), "float32"}:
                    made = stored.make(given, view, plan, form)
                    assert made.data is not None
                    held = replace(medium, made=(made,))
                    assert stored.match(held, view, plan) == made
                    back = stored.restore(made.data, made, view, plan)
                    assert back.dtype == expected.dtype
                    assert np.array_equal(back, expected)
                    checked += 1
    assert checked >= 4


def test_pixels_serve_views_that_leave_normalising_to_the_device() -> None:
    view, medium = SmartResize(max_pixels=140 * 140), facts("image", (96, 128))
    plan = view.plan(medium)
    made = stored.make(pixels(96, 128), view, plan, "uint8")
    light = replace(view, dtype="uint8")
    assert stored.match(replace(medium, made=(made,)), light, light.plan(medium)) == made
    back = stored.restore(made.data or b"", made, light, plan)
    assert np.array_equal(back, light.realize(pixels(96, 128), plan).numpy())
    whole = view.realize(pixels(96, 128), plan)
    assert torch.equal(normalise_on_device(torch.tensor(back), view.mean, view.std, patchify=plan.ops[-1]), whole)  # type: ignore[arg-type]
    floats = stored.make(pixels(96, 128), view, plan, "float32")
    assert stored.match(replace(medium, made=(floats,)), light, plan) is None
    assert len(made.data or b"") < len(floats.data or b"") / 7  # a quarter, and a still picture once instead of twice


def test_any_reader_of_arrow_reads_it() -> None:
    view, medium = AnyRes(), facts("image", (300, 451))
    plan = view.plan(medium)
    tensor = pa.ipc.read_tensor(stored.make(pixels(300, 451), view, plan, "uint8").data)
    assert tensor.dim_names == ["picture", "row", "column", "channel"]
    whole = Image.fromarray(tensor.to_numpy()[0])
    assert whole.size == (336, 336)
    table = pa.ipc.open_stream(stored.make(pixels(300, 451), view, plan, "jpeg90").data).read_all()
    assert [Image.open(io.BytesIO(row)).size for row in table["jpeg"].to_pylist()] == [(336, 336)] * plan.shape[0]


@pytest.mark.parametrize(("form", "most"), [("jpeg95", 0.05), ("jpeg60", 0.1), ("float16", 1e-3)])
def test_lossy_forms_come_near_and_are_not_taken_unasked(form: str, most: float) -> None:
    view, medium = AnyRes(), facts("image", (300, 451))
    plan = view.plan(medium)
    made = stored.make(pixels(300, 451), view, plan, form)
    held = replace(medium, made=(made,))
    assert stored.match(held, view, plan) is None
    assert stored.match(held, view, plan, lossy=True) == made
    expected = view.realize(pixels(300, 451), plan).numpy()
    back = stored.restore(made.data or b"", made, view, plan)
    assert 0 < np.abs(back - expected).mean() < most
    exact = stored.make(pixels(300, 451), view, plan, "uint8")
    assert stored.match(replace(medium, made=(made, exact)), view, plan, lossy=True) == exact


def test_whatever_decides_the_output_decides_the_digest() -> None:
    medium = facts("image", (300, 451))
    view = AnyRes()
    plan = view.plan(medium)
    held = replace(medium, made=(stored.make(pixels(300, 451), view, plan, "uint8"),))
    assert stored.match(held, view, plan)
    for other in (
        AnyRes(backend="pil"),
        AnyRes(filter="bilinear"),
        AnyRes(size=168, pinpoints=((336, 336),)),
        AnyRes(mean=(0.5, 0.5, 0.5)),
        SmartResize(),
    ):
        assert stored.match(held, other, other.plan(medium)) is None
    taller = replace(held, height=301)
    assert stored.match(taller, view, view.plan(taller)) is None
    flipped = Augmented(**{name: getattr(held, name) for name in Media.__slots__}, before=(Flip(),), stored=(300, 451))
    assert stored.match(flipped, view, plan) is None
    assert stored.match(held, view, replace(plan, ops=(Resize(336, 336), *plan.ops))) is None


def test_a_random_resolution_matches_only_when_it_is_drawn_again() -> None:
    view, medium = NaViT(), facts("image", (300, 451))
    plan = view.plan(medium)
    held = replace(medium, made=(stored.make(pixels(300, 451), view, plan, "uint8"),))
    drawn = [view.plan(medium, rng=np.random.default_rng(seed)) for seed in range(20)]
    for other in drawn:
        assert (stored.match(held, view, other) is not None) == (stored._split(other)[0] == stored._split(plan)[0])


def test_a_new_generation_of_library_code_is_another_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    view, medium = AnyRes(backend="pil"), facts("image", (96, 128))
    plan = view.plan(medium)
    before = stored.digest(view, plan, "uint8")
    monkeypatch.setattr(stored, "_generation", lambda: {"torchvision": 1, "pil": 99})
    stored._described.cache_clear()
    assert stored.digest(view, plan, "uint8") != before
    monkeypatch.undo()
    stored._described.cache_clear()
    assert stored.digest(view, plan, "uint8") == before


def test_formats_that_a_view_cannot_be_kept_in_are_refused() -> None:
    with pytest.raises(SpecError, match="store float32"):
        stored.check_format(Mel(), "uint8")
    with pytest.raises(SpecError, match="asked for uint8"):
        stored.check_format(AnyRes(dtype="uint8"), "float32")


@pytest.mark.parametrize("form", ["uint8", "float32", "jpeg95"])
def test_other_bytes_are_named_damage(form: str) -> None:
    view, medium = AnyRes(), facts("image", (96, 128))
    plan = view.plan(medium)
    made = stored.make(pixels(96, 128), view, plan, form)
    data = made.data or b""
    other = view.plan(facts("image", (700, 96)))
    bad = [b"", data[: len(data) // 2], b"ARROW1" * 50, stored.make(pixels(700, 96), view, other, form).data or b""]
    for damaged in bad:
        with pytest.raises(DataError):
            stored.restore(damaged, made, view, plan)
