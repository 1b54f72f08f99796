from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from mmdata.decode import image
from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps.probe import Probe
from mmdata.steps.resize import Resize, resample
from mmdata.types import Media, Origin, Sample
from tests.decode.pictures import SKIMAGE, SKLEARN, odd_kinds, photo, pillow, save, with_orientation

MODES = ("shortest", "longest", "border", "center_crop", "cap_pixels")


def resized(data: bytes, **options: Any) -> Media:
    step = Resize(**options)
    steps = (Probe(), step)
    work = Work.for_steps(steps)
    answer: Any = Sample(key="a", parts=(Media(kind="image", data=data),), origin=Origin(uri="", row=0))
    for one in steps:
        answer = one.apply(answer, work)
    media = answer.media[0]
    header = image.read_header(media.data, max_pixels=image.MAX_PIXELS)
    assert (header.format, header.height, header.width) == (media.format, media.height, media.width)
    assert (header.mode, header.orientation, media.verified) == (media.mode, 1, "full")
    return media


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((one.astype(float) - other) ** 2).mean(), 1e-9)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mode": "shortest", "size": 60}, (60, 80)),
        ({"mode": "longest", "size": 60}, (45, 60)),
        ({"mode": "border", "size": 60}, (60, 60)),
        ({"mode": "center_crop", "size": 60}, (60, 60)),
        ({"mode": "cap_pixels", "pixels": 4800}, (60, 80)),
        ({"mode": "shortest", "size": 300}, (240, 320)),
        ({"mode": "shortest", "size": 300, "upscale": True}, (300, 400)),
        ({"mode": "longest", "size": 400}, (240, 320)),
        ({"mode": "longest", "size": 400, "upscale": True}, (300, 400)),
        ({"mode": "border", "size": 400}, (400, 400)),
        ({"mode": "center_crop", "size": 400}, (240, 240)),
        ({"mode": "center_crop", "size": 400, "upscale": True}, (400, 400)),
        ({"mode": "cap_pixels", "pixels": 100_000}, (240, 320)),
        ({"mode": "keep"}, (240, 320)),
    ],
)
def test_sizes(options: dict[str, Any], expected: tuple[int, int]) -> None:
    data = save(photo(), "JPEG")
    for decode in ("exact", "scaled"):
        media = resized(data, decode=decode, **options)
        assert (media.height, media.width) == expected
        assert (media.data is data) == (expected == (240, 320))


@settings(deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(MODES), st.integers(1, 1500), st.booleans())
def test_any_size_comes_out_as_promised(height: int, width: int, mode: Any, size: int, upscale: bool) -> None:
    cap = size * size
    step = Resize(mode=mode, size=size, pixels=cap, upscale=upscale)
    target, shape = step.target(height, width), step.shape(height, width)
    assert min(target) >= 1
    if not upscale:
        assert target[0] <= height
        assert target[1] <= width
    if mode == "cap_pixels":
        assert target[0] * target[1] <= cap or (target == (height, width) and height * width <= cap)
    elif mode == "shortest":
        assert min(target) == (size if upscale else min(size, height, width))
    elif mode == "longest":
        assert max(target) == (size if upscale else min(size, max(height, width)))
    elif mode == "border":
        assert shape == (size, size)
    else:
        assert shape == ((size, size) if upscale else (min(size, height, width),) * 2)
    if mode in ("shortest", "longest", "cap_pixels") and not upscale:
        assert step.shape(*shape) == shape


@pytest.mark.parametrize("filter", ["bicubic", "lanczos"])
def test_direct_filters_are_pillows(filter: Any) -> None:
    data = save(photo(), "PNG")
    media = resized(data, mode="shortest", size=100, filter=filter)
    flag = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}[filter]
    np.testing.assert_array_equal(pillow(media.data), np.asarray(photo().resize((133, 100), flag)))


def test_area_is_near_bicubic() -> None:
    values = []
    for path in (SKLEARN / "china.jpg", SKLEARN / "flower.jpg", SKIMAGE / "coffee.png", SKIMAGE / "retina.jpg"):
        picture = Image.open(path).convert("RGB")
        for scale in (1.5, 2.2, 3.0, 3.625, 5.0):
            height, width = round(picture.height / scale), round(picture.width / scale)
            truth = resample(picture, height, width, "bicubic")
            values.append(psnr(resample(picture, height, width, "area"), truth))
    assert np.mean(values) > 42
    assert min(values) > 36


def test_scaled_decoding_is_near_exact_decoding() -> None:
    values = []
    for path in (SKLEARN / "china.jpg", SKLEARN / "flower.jpg", SKIMAGE / "retina.jpg", SKIMAGE / "rocket.jpg"):
        data = path.read_bytes()
        side = min(Image.open(path).size)
        for size in (side // 4, side // 7, side // 14):
            exact = resized(data, size=size, format="png", filter="bicubic")
            scaled = resized(data, size=size, format="png", filter="bicubic", decode="scaled")
            assert not np.array_equal(pillow(exact.data), pillow(scaled.data))
            values.append(psnr(pillow(exact.data), pillow(scaled.data)))
    assert np.mean(values) > 38
    assert min(values) > 30


def test_border_is_white_and_centred() -> None:
    pixels = pillow(resized(save(Image.new("RGB", (40, 20), (10, 20, 30)), "PNG"), mode="border", size=40).data)
    assert (pixels[:10] == 255).all()
    assert (pixels[30:] == 255).all()
    assert (pixels[10:30] == (10, 20, 30)).all()


def test_center_crop_is_the_middle() -> None:
    data = save(photo(), "PNG")
    pixels = pillow(resized(data, mode="center_crop", size=240).data)
    np.testing.assert_array_equal(pixels, pillow(data)[:, 40:280])


@pytest.mark.parametrize("name", odd_kinds())
def test_every_kind_can_be_resized(name: str) -> None:
    data = odd_kinds()[name]
    media = resized(data, mode="longest", size=32)
    assert max(media.height or 0, media.width or 0) == 32
    expected = {"jpeg": "jpeg", "webp": "webp", "avif": "jpeg", "jp2": "jpeg"}.get(name.split()[0], "png")
    if name == "webp lossless" or "animated" in name:
        expected = "png"
    elif name == "tiff cmyk":
        expected = "jpeg"
    assert media.format == expected
    assert media.mode == ("L" if name in ("jpeg grey", "png l", "png la", "png 1") else "RGB")


def test_format_forces_a_change_only_where_it_differs() -> None:
    data = save(photo(), "JPEG")
    assert resized(data, mode="keep", format="jpeg").data is data
    png = resized(data, mode="keep", format="png")
    assert png.format == "png"
    np.testing.assert_array_equal(pillow(png.data), pillow(data))
    assert resized(save(photo(), "PNG"), mode="shortest", size=500, format="webp").format == "webp"
    low, high = (resized(data, size=100, quality=quality).data for quality in (30, 95))
    assert len(low or b"") < len(high or b"")


@pytest.mark.parametrize(("format", "longest"), [("jpeg", 65_500), ("webp", 16_383)])
def test_a_side_that_a_format_cannot_hold_costs_the_record(format: str, longest: int) -> None:
    for mode in ({"mode": "keep"}, {"mode": "shortest", "size": 2}):
        fits = save(Image.new("RGB", (2, longest)), "PNG")
        assert resized(fits, **mode, format=format).height == longest
        beyond = save(Image.new("RGB", (2, longest + 1)), "PNG")
        with pytest.raises(DataError, match=f"too_long: {longest + 1} x 2 pixels: a side of {format} is"):
            resized(beyond, **mode, format=format)
    assert resized(beyond, mode="keep", format="png").height == longest + 1


def test_sideways_pictures_are_measured_upright() -> None:
    data = with_orientation("JPEG", 6, 640, 320)
    media = resized(data, mode="shortest", size=80)
    assert (media.height, media.width) == (160, 80)
    sample = Sample(key="a", parts=(Media(kind="image", data=data),), origin=Origin(uri="", row=0))
    for decode in ("exact", "scaled"):
        step = Resize(mode="shortest", size=80, decode=decode)
        answer = step.apply(sample, Work())
        assert isinstance(answer, Sample)
        assert (answer.media[0].height, answer.media[0].width) == (160, 80)
        assert psnr(pillow(answer.media[0].data), np.asarray(Image.fromarray(pillow(data)).resize((80, 160)))) > 28


def test_missing_sizes_are_spec_mistakes() -> None:
    with pytest.raises(ValidationError, match="needs `size`"):
        Resize(mode="shortest")
    with pytest.raises(ValidationError, match="needs `pixels`"):
        Resize(mode="cap_pixels", size=5)
    assert Resize(mode="keep").size is None


def test_the_same_bytes_every_time() -> None:
    data = (SKLEARN / "china.jpg").read_bytes()
    one, other = (resized(data, size=100).data for _ in range(2))
    assert one == other
