"""The interpreter against torchvision, Pillow, Hugging Face's processors and loops over single values."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode
from transformers import (
    CLIPImageProcessor,
    CLIPImageProcessorPil,
    Idefics3ImageProcessor,
    Idefics3ImageProcessorPil,
    LlavaNextImageProcessor,
    LlavaNextImageProcessorPil,
    Pix2StructImageProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLImageProcessorPil,
    Qwen2VLVideoProcessor,
    Siglip2ImageProcessor,
)

from mmdata.types import (
    Crop,
    Filter,
    Flip,
    Fork,
    LogMel,
    Normalise,
    Op,
    Pad,
    Patchify,
    PixelOp,
    Resize,
    Standardise,
    Tile,
)
from mmdata.views.pixels import apply, normalise_on_device
from tests.decode.pictures import SKLEARN, photo

CLIP = Normalise((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic", "lanczos")
draw = np.random.default_rng(3)


def noise(height: int, width: int) -> np.ndarray:
    return draw.integers(0, 256, (height, width, 3), np.uint8)


def edges(height: int, width: int) -> np.ndarray:
    """Black and white bars of all widths: filters overshoot most here."""
    columns = (np.arange(width) ** 2 // 37 % 2 * 255).astype(np.uint8)
    rows = (np.arange(height) ** 2 // 53 % 2 * 255).astype(np.uint8)
    return np.stack([columns ^ rows[:, None], np.broadcast_to(columns, (height, width)), ~columns & rows[:, None]], -1)


def pictures() -> dict[str, np.ndarray]:
    return {
        "photo": np.array(Image.open(SKLEARN / "china.jpg").convert("RGB")),
        "narrow": np.array(photo(61, 320)),
        "edges": edges(211, 340),
        "noise": noise(120, 95),
        "ramp": np.broadcast_to(np.linspace(0, 255, 900).astype(np.uint8)[:, None, None], (900, 61, 3)).copy(),
        "one pixel": noise(1, 1),
        "one row": noise(1, 400),
    }


def chw(pixels: np.ndarray) -> torch.Tensor:
    """As Hugging Face's processors hold a picture: contiguous planes."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


# Resizing


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("picture", pictures())
def test_resizing_equals_torchvision_and_pillow_exactly(picture: str, name: Any) -> None:
    pixels = pictures()[picture]
    height, width = pixels.shape[:2]
    for size in [(336, 336), (48, 500), (900, 13), (1, 1), (7, 1), (height, width), (height, 77)]:
        ours = apply(pixels, [Resize(*size, name)])
        assert ours.dtype == torch.uint8
        assert ours.is_contiguous()
        source = torch.from_numpy(pixels).permute(2, 0, 1) if size == (1, 1) else chw(pixels)  # Planes to 1 x 1 fail.
        theirs = tv.resize(source, list(size), InterpolationMode(name), antialias=True)
        assert torch.equal(ours, theirs), size
        pillow = Image.fromarray(pixels).resize(size[::-1], Image.Resampling[name.upper()])
        ours = apply(pixels, [Resize(*size, name)], backend="pil")
        assert np.array_equal(ours.permute(1, 2, 0), np.asarray(pillow)), size


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.sampled_from(FILTERS))
def test_resizing_is_two_rounded_passes(height: int, width: int, to_height: int, to_width: int, name: Any) -> None:
    """Against the definition, tap by tap in float64: width first, rounded and clamped, then height. Torch's weights
    have as many bits as fit, so that one level of difference remains where a sum lies near a half."""
    pixels = np.random.default_rng((height, width, to_height)).integers(0, 256, (height, width, 3), np.uint8)

    def weights(source: int, target: int) -> np.ndarray:
        scale = source / target
        stretch = max(scale, 1.0)
        support = {"bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}[name] * stretch
        matrix = np.zeros((target, source))
        for to in range(target):
            centre = scale * (to + 0.5)
            start, stop = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)
            matrix[to, start:stop] = [kernel(name, (at - centre + 0.5) / stretch) for at in range(start, stop)]
        matrix /= matrix.sum(axis=1, keepdims=True)
        return matrix

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.floor(values + 0.5).clip(0, 255)

    expected = pixels.astype(float)
    if to_width != width:
        expected = rounded(np.einsum("hwc,vw->hvc", expected, weights(width, to_width)))
    if to_height != height:
        expected = rounded(np.einsum("hwc,gh->gwc", expected, weights(height, to_height)))
    ours = apply(pixels, [Resize(to_height, to_width, name)]).permute(1, 2, 0).numpy()
    assert np.abs(ours - expected).max() <= 2
    assert (ours != expected).mean() <= 0.12 or ours.size < 1000


def kernel(name: str, x: float) -> float:
    x = abs(x)
    if name == "bilinear":
        return max(0.0, 1 - x)
    if name == "lanczos":
        return float(np.sinc(x) * np.sinc(x / 3)) if x < 3 else 0.0
    a = -0.5
    if x < 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((x - 5) * x + 8) * a * x - 4 * a if x < 2 else 0.0


def test_the_two_backends_differ() -> None:
    """Pillow goes height first where that leaves less to do, so nothing could equal both."""
    ramp = pictures()["ramp"] // 2 + noise(900, 61) // 2
    ops = [Resize(100, 60, "bicubic")]
    assert not torch.equal(apply(ramp, ops), apply(ramp, ops, backend="pil"))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pixels = edges(500, 700)
        ours = apply(pixels, [Resize(336, 336), CLIP])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(ours, apply(pixels, [Resize(336, 336), CLIP]))


# Single operations, against loops and numpy


def test_pad_crop_and_flip() -> None:
    pixels = noise(5, 4)
    padded = apply(pixels, [Pad(1, 2, 0, 3, (7, 8, 9))])
    expected = np.full((6, 9, 3), (7, 8, 9), np.uint8)
    expected[1:, 2:6] = pixels
    assert np.array_equal(padded.permute(1, 2, 0), expected)
    assert np.array_equal(apply(pixels, [Pad(0, 0, 2, 0)])[:, 5:], np.zeros((3, 2, 4), np.uint8))
    assert np.array_equal(apply(pixels, [Flip()]).permute(1, 2, 0), pixels[:, ::-1])
    assert np.array_equal(apply(pixels, [Crop(1, 2, 3, 2)]).permute(1, 2, 0), pixels[1:4, 2:4])


def test_tiles_are_row_major() -> None:
    pixels = noise(6, 12)
    tiles = apply(pixels, [Tile(2, 3)])
    assert tiles.shape == (6, 3, 3, 4)
    for row, column in itertools.product(range(2), range(3)):
        expected = pixels[3 * row : 3 * row + 3, 4 * column : 4 * column + 4]
        assert np.array_equal(tiles[3 * row + column].permute(1, 2, 0), expected)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(("frames", "temporal"), [(1, 1), (1, 2), (2, 2), (3, 2), (5, 3)])
@pytest.mark.parametrize("merge", [1, 2, 3])
def test_patches_value_by_value(merge: int, frames: int, temporal: int, channels_last: bool) -> None:
    size, rows, columns = 2, 2 * merge, merge
    video = torch.from_numpy(draw.integers(0, 256, (frames, 3, rows * size, columns * size), np.uint8))
    op = Patchify(size, merge=merge, temporal=temporal, channels_last=channels_last, grid_ids=True, pad_to=90)
    ours = apply(video, [CLIP, op])
    floats = apply(video, [CLIP])
    expected = []
    for time, big_row, big_column in itertools.product(
        range(math.ceil(frames / temporal)), range(rows // merge), range(columns // merge)
    ):
        for small_row, small_column in itertools.product(range(merge), range(merge)):
            row, column = big_row * merge + small_row, big_column * merge + small_column
            values = []
            for index in np.ndindex(*((temporal, size, size, 3) if channels_last else (3, temporal, size, size))):
                frame, y, x, channel = index if channels_last else (index[1], index[2], index[3], index[0])
                shown = min(time * temporal + frame, frames - 1)
                values.append(float(floats[shown, channel, row * size + y, column * size + x]))
            expected.append([row + 1, column + 1, *values])
    assert np.array_equal(ours[: len(expected)], np.array(expected, np.float32))
    assert len(ours) == 90
    assert not ours[len(expected) :].any()


@pytest.mark.parametrize("unbiased", [True, False])
def test_standardise(unbiased: bool) -> None:
    for pixels in (noise(31, 17), np.zeros((4, 5, 3), np.uint8), noise(1, 2)):
        wide = pixels.astype(np.float64)
        deviation = max(wide.std(ddof=int(unbiased)), wide.size**-0.5)
        ours = apply(pixels, [Standardise(unbiased)]).permute(1, 2, 0).numpy()
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, (wide - wide.mean()) / deviation, atol=1e-5)
    video = torch.from_numpy(draw.integers(0, 256, (2, 3, 8, 9), np.uint8))
    alone = [apply(frame.permute(1, 2, 0).numpy(), [Standardise()]) for frame in video]
    assert torch.equal(apply(video, [Standardise()]), torch.stack(alone))


def test_a_fork_puts_its_branches_after_each_other() -> None:
    pixels = edges(60, 90)
    ops: list[PixelOp] = [
        Flip(),
        Fork(
            (
                (Resize(12, 15),),
                (Resize(24, 30), Tile(2, 2)),
                (Crop(0, 10, 30, 40), Pad(0, 5, 0, 5), Resize(12, 15, "lanczos")),
            )
        ),
        HALF,
    ]
    ours = apply(pixels, ops)
    assert ours.shape == (6, 3, 12, 15)
    branches = [apply(pixels, [Flip(), *branch, HALF]) for branch in ops[1].branches]  # type: ignore[union-attr]
    assert torch.equal(ours, torch.cat([branches[0][None], branches[1], branches[2][None]]))
    assert apply(pixels, [Fork(((Resize(12, 15),),))]).shape == (1, 3, 12, 15)
    nested = apply(pixels, [Fork(((Resize(12, 15), Fork(((Flip(),), ()))), (Resize(12, 15),)))])
    assert torch.equal(nested[0], nested[1].flip(-1))
    assert torch.equal(nested[1], nested[2])


# Normalising, types, outputs


def test_normalising_is_exactly_the_fused_formula() -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = (torch.tensor(values) * 255 for values in (CLIP.mean, CLIP.std))
    expected = tv.normalize(chw(levels).float(), mean.tolist(), std.tolist())
    assert torch.equal(apply(levels, [CLIP]), expected)
    # In the middle of a list it is the same values, and what follows works on float32.
    early = apply(levels, [CLIP, Resize(9, 9, "bilinear")])
    assert torch.equal(early, tv.resize(expected, [9, 9], InterpolationMode.BILINEAR, antialias=True))
    assert torch.equal(apply(levels, [CLIP, Flip()]), expected.flip(-1))


LISTS: dict[str, list[PixelOp]] = {
    "crop": [Resize(40, 60), Crop(4, 4, 28, 28), CLIP],
    "tiles": [Fork(((Resize(28, 28),), (Resize(28, 56), Pad(0, 0, 28, 0), Tile(2, 2)))), CLIP],
    "patches": [Resize(28, 56), CLIP, Patchify(7, merge=2, temporal=2)],
    "packed": [Resize(32, 48, "bilinear"), HALF, Patchify(16, channels_last=True, pad_to=9)],
    "standardised": [
        Standardise(),
        Resize(32, 48, "bilinear"),
        Patchify(16, channels_last=True, pad_to=9, grid_ids=True),
    ],
}


@pytest.mark.parametrize("name", LISTS)
def test_out_takes_the_result(name: str) -> None:
    pixels = np.array(photo(120, 80))
    expected = apply(pixels, LISTS[name])
    assert expected.is_contiguous()
    batch = torch.full((3, *expected.shape), -7.0)
    result = apply(pixels, LISTS[name], out=batch[1])
    assert result.data_ptr() == batch[1].data_ptr()
    assert torch.equal(batch[1], expected)
    assert (batch[::2] == -7).all()
    for wrong in (batch[:2], batch[1].double(), torch.stack([batch[1]] * 2, -1)[..., 0]):
        with pytest.raises(ValueError, match="wanted is a contiguous"):
            apply(pixels, LISTS[name], out=wrong)


@pytest.mark.parametrize("name", [name for name in LISTS if name != "standardised"])
def test_bytes_normalised_on_the_device_are_the_same(name: str) -> None:
    pixels, ops = np.array(photo(120, 80)), LISTS[name]
    small = apply(pixels, ops, dtype=torch.uint8)
    assert small.dtype == torch.uint8
    normalise = next(op for op in ops if isinstance(op, Normalise))
    patchify = next((op for op in ops if isinstance(op, Patchify)), None)
    mask = torch.arange(9) < 6 if name == "packed" else None
    batch = normalise_on_device(
        torch.stack([small, small]),
        normalise.mean,
        normalise.std,
        patchify=patchify,
        mask=None if mask is None else torch.stack([mask, mask]),
    )
    expected = apply(pixels, ops)
    assert torch.equal(batch, torch.stack([expected, expected]))
    assert small.any()  # The bytes stay as they are.
    assert torch.equal(small, apply(pixels, ops, dtype=torch.uint8))


def test_what_float_operations_cannot_do_in_bytes() -> None:
    pixels = noise(32, 32)
    lists: list[list[PixelOp]] = [[Standardise(), Patchify(16)], [CLIP, Flip()], [Patchify(16, grid_ids=True)]]
    for ops in lists:
        with pytest.raises(ValueError, match="float32"):
            apply(pixels, ops, dtype=torch.uint8)


@pytest.mark.parametrize("backend", ["torchvision", "pil"])
def test_frames_are_treated_alike(backend: Any) -> None:
    video = torch.from_numpy(draw.integers(0, 256, (3, 3, 40, 50), np.uint8))
    ops: list[PixelOp] = [Flip(), Resize(30, 31, "bilinear"), Pad(1, 0, 1, 0, (1, 2, 3)), Crop(2, 3, 28, 28), CLIP]
    each = [apply(np.ascontiguousarray(frame.permute(1, 2, 0)), ops, backend=backend) for frame in video]
    assert torch.equal(apply(video, ops, backend=backend), torch.stack(each))
    assert torch.equal(apply(video.numpy(), ops, backend=backend), torch.stack(each))
    frames_last = video.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(apply(frames_last, ops, backend=backend), torch.stack(each))
    assert torch.equal(apply(video, [Resize(1, 1)]), apply(frames_last, [Resize(1, 1)]))
    tiles = apply(video, [Tile(2, 2)])
    assert torch.equal(tiles, torch.cat([apply(frame[None], [Tile(2, 2)]) for frame in video]))


def test_the_source_is_left_alone() -> None:
    pixels = noise(30, 30)
    before = pixels.copy()
    lists: list[list[PixelOp]] = [[CLIP], [], [Flip(), CLIP], [Resize(30, 30), CLIP], [Pad(0, 0, 0, 0), CLIP]]
    for ops in lists:
        result = apply(pixels, ops)
        result.fill_(9)
        assert np.array_equal(pixels, before), ops
    pixels.flags.writeable = False
    assert torch.equal(apply(pixels, [CLIP]), apply(before, [CLIP]))


WRONG: list[tuple[list[Op], str]] = [
    ([Crop(0, 0, 9, 8)], "leaves a picture"),
    ([Crop(-1, 0, 2, 2)], "leaves a picture"),
    ([Tile(3, 2)], "does not divide"),
    ([Patchify(3)], "no whole blocks"),
    ([Patchify(4, merge=4)], "no whole blocks"),
    ([Patchify(4, pad_to=3)], "do not fit"),
    ([Patchify(4), Flip()], "not where it stands"),
    ([LogMel(0, 1)], "no step"),
    ([Tile(2, 2), Patchify(4)], "needs one picture"),
    ([Fork(((), (Resize(4, 4),)))], "several sizes"),
    ([Tile(2, 2), Fork(((),))], "needs one picture"),
]


@pytest.mark.parametrize(("ops", "message"), WRONG)
def test_a_wrong_plan_is_a_bug(ops: list[Op], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        apply(noise(8, 8), ops)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)]
)
def test_wrong_pixels_are_a_bug(pixels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="no picture"):
        apply(pixels, [CLIP])


# Whole processors, written out as operations by hand

SIZES = [(427, 640), (300, 300), (61, 320), (333, 999), (28, 28), (750, 90)]


def scene(height: int, width: int) -> np.ndarray:
    mixed: np.ndarray = np.array(photo(width, height)) // 2 + edges(height, width) // 2
    return mixed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("backend", "clip", "qwen"),
    [
        ("torchvision", CLIPImageProcessor, Qwen2VLImageProcessor),
        ("pil", CLIPImageProcessorPil, Qwen2VLImageProcessorPil),
    ],
)
def test_squashed_and_patched_pictures_equal_hugging_face(
    size: tuple[int, int], backend: Any, clip: Any, qwen: Any
) -> None:
    pixels = scene(*size)
    square = {"height": 98, "width": 98}
    theirs = clip(size=square, do_center_crop=False)(pixels, return_tensors="pt").pixel_values[0]
    ours = apply(pixels, [Resize(98, 98), CLIP], backend=backend)
    assert (ours - theirs).abs().max() <= 1e-5
    found = qwen()(pixels, return_tensors="pt")
    _, rows, columns = found.image_grid_thw[0].tolist()
    ours = apply(pixels, [Resize(14 * rows, 14 * columns), CLIP, Patchify(14, merge=2, temporal=2)], backend=backend)
    assert ours.shape == found.pixel_values.shape
    assert (ours - found.pixel_values).abs().max() <= 1e-5


@pytest.mark.parametrize("size", SIZES)
def test_packed_patches_equal_hugging_face(size: tuple[int, int]) -> None:
    pixels = scene(*size)
    found = Siglip2ImageProcessor(max_num_patches=100)(pixels, return_tensors="pt")
    rows, columns = found.spatial_shapes[0].tolist()
    ops: list[PixelOp] = [
        Resize(16 * rows, 16 * columns, "bilinear"),
        HALF,
        Patchify(16, channels_last=True, pad_to=100),
    ]
    assert torch.equal(apply(pixels, ops), found.pixel_values[0])
    pix2struct: Any = Pix2StructImageProcessor()
    theirs = pix2struct(chw(pixels), max_patches=64, return_tensors="pt").flattened_patches[0]
    rows, columns = (int(theirs[:, at].max()) for at in (0, 1))
    ids: list[PixelOp] = [
        Standardise(),
        Resize(16 * rows, 16 * columns, "bilinear"),
        Patchify(16, channels_last=True, grid_ids=True, pad_to=64),
    ]
    assert (apply(pixels, ids) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("backend", "next_", "idefics"),
    [
        ("torchvision", LlavaNextImageProcessor, Idefics3ImageProcessor),
        ("pil", LlavaNextImageProcessorPil, Idefics3ImageProcessorPil),
    ],
)
def test_tiled_pictures_equal_hugging_face(backend: Any, next_: Any, idefics: Any) -> None:
    pixels = scene(427, 640)
    options = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    theirs = next_(image_grid_pinpoints=[[112, 112]], **options)(pixels, return_tensors="pt").pixel_values[0]
    inner = math.ceil(427 * 112 / 640)
    above = (112 - inner) // 2
    tiles = (Resize(inner, 112), Pad(above, 0, 112 - inner - above, 0), Tile(2, 2))
    ours = apply(pixels, [Fork(((Resize(56, 56),), tiles)), CLIP], backend=backend)
    assert (ours - theirs).abs().max() <= 1e-5
    split = idefics(size={"longest_edge": 400}, max_image_size={"longest_edge": 100})
    theirs = split([[pixels]], return_tensors="pt").pixel_values[0]
    chain: list[PixelOp] = [
        Resize(266 + 266 % 2, 400, "lanczos"),
        Resize(300, 400, "lanczos"),
        Fork(((Tile(3, 4),), (Resize(100, 100, "lanczos"),))),
        HALF,
    ]
    ours = apply(pixels, chain, backend=backend)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("frames", [4, 5])
def test_video_patches_equal_hugging_face(frames: int) -> None:
    video = torch.from_numpy(np.stack([np.roll(scene(90, 120), 5 * at, axis=1) for at in range(frames)]))
    video = video.permute(0, 3, 1, 2).contiguous()
    found = Qwen2VLVideoProcessor()(videos=[video], do_sample_frames=False, return_tensors="pt")
    time, rows, columns = found.video_grid_thw[0].tolist()
    ours = apply(video, [Resize(14 * rows, 14 * columns), CLIP, Patchify(14, merge=2, temporal=2)])
    assert ours.shape == (time * rows * columns, 1176)
    assert (ours - found.pixel_values_videos).abs().max() <= 1e-5
