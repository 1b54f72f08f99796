"""DALI runs every view's operations: exactly where nothing is resized, within the tolerances where something is; and
what it cannot or must not decode ends as it does on the CPU."""

from __future__ import annotations

import functools
import gc
import random
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")

from mmdata.decode import dali, dali_pixels, image
from mmdata.decode.dali import Picture, realize_images
from mmdata.errors import DataError, SpecError
from mmdata.types import (
    Colour,
    Crop,
    Flip,
    Fork,
    KeepRows,
    Media,
    Normalise,
    Op,
    Pad,
    Patchify,
    Resize,
    Standardise,
    Tile,
)
from mmdata.views import pixels as cpu
from mmdata.views.anyres import AnyRes
from mmdata.views.fixed import Fixed
from mmdata.views.naflex import NaFlex
from mmdata.views.navit import NaViT
from mmdata.views.pix2struct import Pix2Struct
from mmdata.views.pixtral import LongestEdge
from mmdata.views.qwen import SmartResize
from mmdata.views.tiles import CeilTiles, DynamicTiles, PanAndScan, SplitImage

from .pictures import SKIMAGE, SKLEARN, odd_kinds, photo, save, with_orientation

LIMIT = 10_000_000
HALF = Normalise((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def wanted(data: bytes, ops: Sequence[Op], **more: Any) -> Picture:
    return Picture(data=data, ops=tuple(ops), on_cpu=functools.partial(cpu.apply, ops=tuple(ops)), **more)


def run(pictures: Sequence[Picture], **more: Any) -> list[torch.Tensor]:
    results = realize_images(pictures, max_pixels=LIMIT, **more)
    for result in results:
        assert isinstance(result, torch.Tensor), result
        assert result.is_contiguous()
    return results  # type: ignore[return-value]


@functools.cache
def pack() -> list[bytes]:
    """Real photographs as an index might have them: three kinds of JPEG, one turned, one grey, a PNG and a WebP."""
    rocket = Image.open(SKIMAGE / "rocket.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        (SKIMAGE / "rocket.jpg").read_bytes(),
        (SKLEARN / "flower.jpg").read_bytes(),
        save(Image.open(SKLEARN / "china.jpg").resize((500, 333)), "JPEG", quality=90, progressive=True, exif=exif),
        save(rocket.convert("L").resize((300, 451)), "JPEG", quality=85),
        save(rocket.crop((100, 50, 400, 350)), "PNG"),
        save(rocket.crop((100, 50, 440, 250)), "WEBP", quality=90),
    ]


VIEWS: dict[str, Any] = {
    "fixed": Fixed(),
    "anyres": AnyRes(),
    "dynamic_tiles": DynamicTiles(),
    "ceil_tiles": CeilTiles(),
    "split_image": SplitImage(),
    "pan_and_scan": PanAndScan(),
    "smart_resize": SmartResize(),
    "naflex": NaFlex(),
    "navit": NaViT(),
    "pix2struct": Pix2Struct(),
    "longest_edge": LongestEdge(),
}


def compare(view: Any, device: str) -> None:
    """Every photograph of the pack against the CPU path, within the tolerances for a resize in floats."""
    pictures, references = [], []
    for data in pack():
        upright = image.decode(data, max_pixels=LIMIT)
        plan = view.plan(Media(kind="image", height=upright.shape[0], width=upright.shape[1]))
        pictures.append(Picture(data=data, ops=plan.ops, on_cpu=functools.partial(view.realize, plan=plan)))
        references.append((plan.shape, view.realize(upright, plan)))
    counted = Counter[str]()
    results = run(pictures, device=device, fallbacks=counted)
    assert not counted
    for result, (shape, reference) in zip(results, references, strict=True):
        assert tuple(result.shape) == shape
        assert result.dtype == torch.float32
        assert result.device.type == ("cuda" if device == "gpu" else "cpu")
        apart = (result.cpu() - reference).abs()
        assert float(apart.mean()) <= 0.004
        assert float((apart <= 0.06).float().mean()) >= 0.995


@pytest.mark.parametrize("name", VIEWS)
def test_views_have_their_planned_shapes_and_the_pixels_of_the_cpu_path(name: str) -> None:
    compare(VIEWS[name], "cpu")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", VIEWS)
def test_views_on_a_gpu(name: str) -> None:
    compare(VIEWS[name], "gpu")


@pytest.mark.gpu
@needs_gpu
def test_nvjpeg_is_near_libjpeg() -> None:
    """Tolerance for decoders that are not libjpeg-turbo: mean <= 0.5, at most 3 levels."""
    for data in pack()[:4]:
        (result,) = run([wanted(data, ())], device="gpu", dtype=torch.uint8)
        apart = np.abs(result.cpu().permute(1, 2, 0).numpy().astype(int) - image.decode(data, max_pixels=LIMIT))
        assert apart.mean() <= 0.5
        assert apart.max() <= 3


@st.composite
def exact_ops(draw: st.DrawFn) -> tuple[tuple[int, int], tuple[Op, ...]]:
    """A size and operations that no resize makes inexact."""
    size = height, width = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    ops: list[Op] = []
    for kind in draw(st.lists(st.sampled_from(["crop", "pad", "flip", "colour"]), max_size=3)):
        if kind == "crop":
            top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            height, width = draw(st.integers(1, height - top)), draw(st.integers(1, width - left))
            ops.append(Crop(top, left, height, width))
        elif kind == "pad":
            top, left, bottom, right = (draw(st.integers(0, 9)) for _ in range(4))
            height, width = height + top + bottom, width + left + right
            ops.append(Pad(top, left, bottom, right, draw(st.sampled_from([(0, 0, 0), (127, 3, 255)]))))
        elif kind == "flip":
            ops.append(Flip())
        else:
            ops.append(Colour(1200, 800, 1500, draw(st.sampled_from([0, 40]))))
    end = draw(st.sampled_from(["planes", "tiles", "fork", "patches", "kept"]))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size_, merge = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    unit = (rows, columns) if end in ("tiles", "fork") else (size_ * merge,) * 2
    if end != "planes":
        ops.append(Pad(0, 0, -height % unit[0], -width % unit[1]))
        height, width = height + -height % unit[0], width + -width % unit[1]
    if end == "tiles":
        ops.append(Tile(rows, columns))
    elif end == "fork":
        small = Crop(0, 0, height // rows, width // columns)
        ops.append(Fork(((small,), (Tile(rows, columns),), (Flip(), small))))
    grid = (height // unit[0] * merge) * (width // unit[1] * merge)
    normalise = draw(st.sampled_from([(), (HALF,)]))
    ops.extend(normalise)
    if end in ("patches", "kept"):
        ids = bool(normalise) and draw(st.booleans())
        temporal, last = draw(st.integers(1, 2)), draw(st.booleans())
        pad_to = draw(st.sampled_from([None, grid, grid + 7])) if end == "patches" else None
        ops.append(Patchify(size_, merge, temporal, last, ids, pad_to))
        if end == "kept":
            ops.append(KeepRows(draw(st.integers(1, grid)), draw(st.integers(0, 99))))
    return size, tuple(ops)


@settings(max_examples=40, deadline=None)
@given(st.lists(exact_ops(), min_size=1, max_size=5))
def test_whatever_is_not_resized_is_exact(pictures: list[tuple[tuple[int, int], tuple[Op, ...]]]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    arrays = [noise[:height, :width] for (height, width), _ in pictures]
    encoded = [save(Image.fromarray(array), "PNG") for array in arrays]
    results = run([wanted(data, ops) for data, (_, ops) in zip(encoded, pictures, strict=True)])
    for array, result, (_, ops) in zip(arrays, results, pictures, strict=True):
        reference = cpu.apply(array, ops)
        assert result.dtype == reference.dtype
        assert result.shape == reference.shape
        torch.testing.assert_close(result, reference, atol=1e-5, rtol=0)


@pytest.mark.parametrize("unbiased", [True, False])
def test_standardised_pictures(unbiased: bool) -> None:
    flat = save(Image.new("RGB", (9, 7), (9, 9, 9)), "PNG")  # Its deviation is zero.
    ops = (Standardise(unbiased), Patchify(1, channels_last=True, grid_ids=True))
    big = save(photo(1600, 1200), "PNG")
    for data, result in zip([flat, big], run([wanted(flat, ops), wanted(big, ops)]), strict=True):
        torch.testing.assert_close(result, cpu.apply(image.decode(data, max_pixels=LIMIT), ops), atol=1e-5, rtol=0)


def test_bytes_are_normalised_later_to_the_same() -> None:
    patchify = Patchify(14, 2, 2)
    body = (Resize(140, 84),)
    data = pack()[0]
    (raw,) = run([wanted(data, (*body, HALF, patchify))], dtype=torch.uint8)
    (whole,) = run([wanted(data, (*body, HALF, patchify))])
    assert raw.dtype == torch.uint8
    later = cpu.normalise_on_device(raw, HALF.mean, HALF.std, patchify=patchify)
    torch.testing.assert_close(later, whole, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="float32 before their end"):
        realize_images([wanted(data, (Standardise(), *body))], max_pixels=LIMIT, dtype=torch.uint8)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_every_orientation_is_undone_once(format: str) -> None:
    files = [with_orientation(format, value) for value in range(1, 9)]
    counted = Counter[str]()
    results = run([wanted(data, ()) for data in files], fallbacks=counted)
    assert not counted
    for data, result in zip(files, results, strict=True):
        np.testing.assert_array_equal(result.permute(1, 2, 0), image.decode(data, max_pixels=LIMIT))


def test_what_dali_would_get_wrong_is_decoded_by_the_cpu_and_counted() -> None:
    kinds = odd_kinds() | {
        "png 16": save(Image.fromarray(np.arange(3000, dtype=np.uint16).reshape(50, 60) * 20), "PNG"),
        "webp exif": with_orientation("WEBP", 6),
    }
    counted = Counter[str]()
    results = run([wanted(data, (HALF,)) for data in kinds.values()], fallbacks=counted)
    for (name, data), result in zip(kinds.items(), results, strict=True):
        reference = cpu.apply(image.decode(data, max_pixels=LIMIT), (HALF,))
        assert torch.allclose(result, reference, atol=1e-5, rtol=0), name
    assert counted == {
        "CMYK jpeg": 1,
        "png with alpha": 5,
        "animated png": 1,
        "P png": 1,
        "1 png": 1,
        "16-bit png": 1,
        "gif": 2,
        "webp with alpha": 1,
        "animated webp": 1,
        "extended webp": 1,
        "tiff": 4,
        "bmp": 2,
        "avif": 2,
        "jp2": 1,
    }


def flipped(data: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(data)
    for _ in range(chance.choice((1, 2, 5))):
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def on_cpu(data: bytes) -> np.ndarray | str:
    """The pixels, or the name of what is wrong."""
    try:
        return image.decode(data, max_pixels=LIMIT)
    except DataError as error:
        return error.reason


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_damage_gets_the_name_that_the_cpu_gives_it(format: str) -> None:
    whole = save(photo(160, 120), format)
    chance = random.Random(format)
    damaged = [whole[:cut] for cut in range(0, len(whole), max(1, len(whole) // 40))]
    damaged += [flipped(whole, chance) for _ in range(80)]
    results = realize_images([wanted(data, ()) for data in [*damaged, whole]], max_pixels=LIMIT)
    named = 0
    for data, result in zip([*damaged, whole], results, strict=True):
        reference = on_cpu(data)
        if isinstance(reference, str):
            assert isinstance(result, DataError)
            assert result.reason == reference
            named += 1
            continue
        assert isinstance(result, torch.Tensor)
        np.testing.assert_array_equal(result.permute(1, 2, 0), reference)
    assert named > 40
    assert isinstance(results[-1], torch.Tensor)


def test_a_file_that_is_called_whole_and_is_not_fails_alone() -> None:
    """DALI refuses the cut file in the middle of a batch, and the CPU says why."""
    good, cut = pack()[0], pack()[1][:20_000]
    counted = Counter[str]()
    pictures = [wanted(data, (), whole=True) for data in (good, good, cut, good)]
    results = realize_images(pictures, max_pixels=LIMIT, fallbacks=counted)
    assert [type(result).__name__ for result in results] == ["Tensor", "Tensor", "DataError", "Tensor"]
    assert isinstance(results[2], DataError)
    assert results[2].reason == "truncated_image"
    assert not counted


def test_bombs_and_wrong_sizes_are_refused_by_their_headers() -> None:
    data = pack()[0]
    small = wanted(data, (Resize(9, 9),))
    (bomb,) = realize_images([small], max_pixels=1000)
    (wrong,) = realize_images([wanted(data, (), size=(640, 427))], max_pixels=LIMIT)
    (right,) = realize_images([wanted(data, (), size=(427, 640))], max_pixels=LIMIT)
    (page,) = realize_images([wanted(b"<html><body>404</body></html>", ())], max_pixels=LIMIT)
    assert [one.reason for one in (bomb, wrong, page) if isinstance(one, DataError)] == [
        "decompression_bomb",
        "facts_mismatch",
        "html_not_image",
    ]
    assert isinstance(right, torch.Tensor)


def test_a_strip_is_left_to_the_cpu() -> None:
    view = Fixed()
    strip = photo(2000, 1)
    plan = view.plan((1, 2000))
    counted = Counter[str]()
    data = save(strip, "PNG")
    picture = Picture(data=data, ops=plan.ops, on_cpu=functools.partial(view.realize, plan=plan))
    (result,) = run([picture], fallbacks=counted)
    assert counted == {"resized through too many pixels": 1}
    assert torch.equal(result, view.realize(np.asarray(strip), plan))


def test_results_are_dalis_memory_and_outlive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places: list[int] = []

    def watched(batch: Any, programs: Any) -> Any:
        done = interpret(batch, programs)
        places.extend(np.asarray(tensor).ctypes.data for tensor in done.tensors.tolist())
        return done

    interpret = dali.interpret
    monkeypatch.setattr(dali, "interpret", watched)
    pictures = [wanted(data, (Resize(64, 48), HALF)) for data in pack()]
    results = run(pictures)
    assert {result.data_ptr() for result in results} == set(places)
    copies = [result.clone() for result in results]
    for _ in range(3):
        run(pictures[::-1])
        gc.collect()
    assert all(torch.equal(result, copy) for result, copy in zip(results, copies, strict=True))


def test_a_pack_of_other_sizes_builds_nothing_anew() -> None:
    def pictures(step: int) -> list[Picture]:
        return [wanted(data, (Resize(60 + step * at, 70), HALF)) for at, data in enumerate(pack())]

    def built() -> int:
        return sum(len(context._instance_cache) for context in dali_pixels._local.contexts.values())

    run(pictures(1))
    before = built()
    run(pictures(9))
    assert before > 0
    assert built() == before


def test_large_packs_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [wanted(data, (Resize(64, 48),)) for data in pack()]
    at_once = run(pictures)
    monkeypatch.setattr(dali, "BATCH_PIXELS", 300_000)
    for one, other in zip(at_once, run(pictures), strict=True):
        assert torch.equal(one, other)


def test_threads_do_not_disturb_each_other() -> None:
    pictures = [wanted(data, (Resize(64, 48), HALF)) for data in pack()]
    reference = run(pictures)
    with ThreadPoolExecutor(3) as pool:
        for results in pool.map(lambda _: run(pictures, threads=1), range(6)):
            assert all(torch.equal(one, other) for one, other in zip(results, reference, strict=True))


def test_without_dali_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali.experimental.dynamic", None)
    dali_pixels.dynamic.cache_clear()
    try:
        with pytest.raises(SpecError, match=r"pip install mmdata\[dali\]"):
            dali.require("cpu")
    finally:
        dali_pixels.dynamic.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SpecError, match="no CUDA device"):
        realize_images([], device="gpu", max_pixels=LIMIT)
