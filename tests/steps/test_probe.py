from __future__ import annotations

import hashlib
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmdata.decode import image, jpeg
from mmdata.decode.work import Work
from mmdata.engine import worker
from mmdata.errors import DataError
from mmdata.steps.probe import AT_SIGHT_BYTES, Probe
from mmdata.types import Drop, Media, Origin, Sample, Text
from tests.decode.pictures import odd_kinds, photo, pillow, save, with_orientation


def probe(data: bytes, **options: Any) -> Media | Drop:
    """The picture after the probe, or the drop."""
    sample = Sample(key="a", parts=(Text(text="x"), Media(kind="image", data=data)), origin=Origin(uri="", row=0))
    step = Probe(**options)
    answer = step.apply(sample, Work.for_steps((step,)))
    if isinstance(answer, Drop):
        return answer
    assert answer.parts[0] == sample.parts[0]
    assert isinstance(answer.parts[1], Media)
    return answer.parts[1]


def kept(data: bytes, **options: Any) -> Media:
    answer = probe(data, **options)
    assert isinstance(answer, Media)
    return answer


KEEP = dict.fromkeys(("cmyk", "sixteen_bit", "animated"), "keep")


@pytest.mark.parametrize("name", odd_kinds())
def test_bytes_stay_and_facts_are_pillows(name: str) -> None:
    data = odd_kinds()[name]
    media = kept(data, **KEEP)
    truth = Image.open(io.BytesIO(data))
    assert media.data is data
    assert (media.width, media.height, media.mode) == (*truth.size, truth.mode)
    assert media.frames == getattr(truth, "n_frames", 1)
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    assert media.verified == "full"
    assert kept(data, **KEEP, verify="header", digest="none").verified == "header"
    assert kept(data, **KEEP, verify="header", digest="none").sha256 is None


@pytest.mark.parametrize("name", [name for name in odd_kinds() if "animated" not in name and "cmyk" not in name])
def test_by_default_plain_pictures_keep_their_bytes(name: str) -> None:
    media = kept(odd_kinds()[name])
    assert (media.data is odd_kinds()[name]) == (name not in ("apng", "tiff pages"))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("value", range(2, 9))
def test_orientation_is_baked_once(format: str, value: int) -> None:
    data = with_orientation(format, value)
    media = kept(data)
    assert media.data is not None
    header = image.read_header(media.data, max_pixels=image.MAX_PIXELS)
    assert (header.orientation, header.height, header.width) == (1, media.height, media.width)
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    baked, truth = pillow(media.data), pillow(data)
    assert baked.shape == truth.shape
    if format in ("PNG", "TIFF"):
        assert media.format == "png"
        np.testing.assert_array_equal(baked, truth)
    else:
        assert media.format == ("webp" if format == "WEBP" else "jpeg")
        assert 10 * np.log10(255**2 / ((baked.astype(float) - truth) ** 2).mean()) > 32
    again = kept(media.data)
    assert again.data is media.data


@pytest.mark.parametrize("value", [3, 6])
def test_orientation_keep_leaves_bytes_and_gives_upright_facts(value: int) -> None:
    data = with_orientation("JPEG", value)
    media = kept(data, orientation="keep")
    assert media.data is data
    assert (media.height, media.width) == pillow(data).shape[:2]


def test_baking_keeps_mode_alpha_and_subsampling() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = save(Image.open(io.BytesIO(odd_kinds()["png rgba"])), "PNG", exif=exif)
    media = kept(alpha)
    assert media.mode == "RGBA"
    assert media.data is not None
    truth = Image.open(io.BytesIO(alpha)).transpose(Image.Transpose.ROTATE_270)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(media.data))), np.asarray(truth))
    for sampling, name in ((0, "444"), (2, "420"), (1, "422")):
        media = kept(save(photo(64, 48), "JPEG", exif=exif, subsampling=sampling))
        assert media.data is not None
        assert jpeg.layout(media.data).subsampling == name
    media = kept(save(photo(64, 48, "L"), "JPEG", exif=exif))
    assert media.mode == "L"
    wide = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100)
    media = kept(save(wide, "PNG", exif=exif), sixteen_bit="keep")
    assert media.data is not None
    turned = np.asarray(Image.open(io.BytesIO(media.data)))
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(wide), -1))
    big_endian = Image.frombytes("I;16B", wide.size, np.asarray(wide).astype(">u2").tobytes())
    media = kept(save(big_endian, "TIFF", tiffinfo={274: 6}), sixteen_bit="keep")
    assert media.data is not None
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(media.data))), turned)


CONVERSIONS = [
    ("jpeg cmyk", "cmyk", "jpeg", "RGB"),
    ("tiff cmyk", "cmyk", "jpeg", "RGB"),
    ("gif animated", "animated", "png", None),
    ("webp animated", "animated", "png", None),
    ("apng", "animated", "png", "RGB"),
    ("tiff pages", "animated", "png", "RGB"),
    ("png rgba", "alpha", "png", "RGB"),
    ("png p transparency", "alpha", "png", "RGB"),
    ("webp alpha", "alpha", "webp", "RGB"),
    ("avif alpha", "alpha", "jpeg", "RGB"),
    ("png l", "grayscale", "png", "RGB"),
    ("png la", "grayscale", "png", "RGB"),
    ("jpeg grey", "grayscale", "jpeg", "RGB"),
    ("png p", "palette", "png", "RGB"),
    ("gif", "palette", "png", "RGB"),
    ("bmp p", "palette", "png", "RGB"),
]


@pytest.mark.parametrize(("name", "rule", "format", "mode"), CONVERSIONS)
def test_rules_convert(name: str, rule: str, format: str, mode: str | None) -> None:
    data = odd_kinds()[name]
    media = kept(data, **{rule: "convert"})
    assert media.data is not None
    header = image.read_header(media.data, max_pixels=image.MAX_PIXELS)
    assert (media.format, media.frames, media.verified) == (format, 1, "full")
    assert (header.format, header.mode, header.height, header.width) == (format, media.mode, media.height, media.width)
    assert mode is None or media.mode == mode
    if rule == "alpha":
        assert not header.alpha
    error = pillow(media.data).astype(float) - pillow(data)
    if format == "png":
        assert not error.any()
    else:
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30


@pytest.mark.parametrize(("name", "rule"), [(name, rule) for name, rule, *_ in CONVERSIONS])
def test_rules_reject(name: str, rule: str) -> None:
    drop = probe(odd_kinds()[name], **{rule: "reject"})
    assert isinstance(drop, Drop)
    assert (drop.reason, drop.state) == (rule, "filtered")
    assert isinstance(probe(odd_kinds()["jpeg 4:2:0"], **{rule: "reject"}), Media)


def test_wide_samples_become_eight_bits() -> None:
    wide = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    media = kept(save(Image.fromarray(wide), "TIFF"))
    assert media.data is not None
    assert (media.format, media.mode) == ("png", "L")
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(media.data))), (wide >> 8).astype(np.uint8))


def test_conversions_are_noted() -> None:
    work = Work()
    for data in (odd_kinds()["jpeg cmyk"], with_orientation("PNG", 6)):
        sample = Sample(key="a", parts=(Media(kind="image", data=data),), origin=Origin(uri="", row=0))
        Probe().apply(sample, work)
    assert work.notes == {"cmyk": 1, "orientation": 1}


def test_formats_that_are_not_wanted_are_dropped() -> None:
    drop = probe(odd_kinds()["gif"], formats=("jpeg", "png"))
    assert drop == Drop(reason="format", detail="gif; accepted are jpeg, png")


def test_damage_is_a_data_error_unless_the_header_is_trusted() -> None:
    cut = save(photo(), "JPEG")[:5000]
    with pytest.raises(DataError, match="truncated_image"):
        probe(cut)
    assert kept(cut, verify="header").verified == "header"
    for data, reason in ((b"", "empty"), (b"<html>", "html_not_image"), (b"{}", "not_an_image")):
        with pytest.raises(DataError, match=reason):
            probe(data, verify="header")
    with pytest.raises(DataError, match="decompression_bomb"):
        probe(save(photo(), "JPEG"), max_pixels=320 * 240 - 1)
    assert kept(save(photo(), "JPEG"), max_pixels=320 * 240).width == 320


def test_a_digest_of_the_source_is_kept() -> None:
    known = Media(kind="image", data=odd_kinds()["png rgb"], sha256="ab")
    answer = Probe().apply(Sample(key="a", parts=(known,), origin=Origin(uri="", row=0)), Work())
    assert isinstance(answer, Sample)
    assert answer.media[0].sha256 == "ab"


def test_conversion_gives_the_same_bytes_again() -> None:
    for name in ("jpeg cmyk", "gif animated"):
        assert kept(odd_kinds()[name]).data == kept(odd_kinds()[name]).data


@pytest.mark.parametrize(
    "options", [{}, {"grayscale": "reject", "alpha": "convert"}, {"formats": ("png",), "digest": "none"}]
)
def test_at_sight_a_picture_is_what_a_worker_makes_of_it(options: dict[str, Any]) -> None:
    given = {
        **odd_kinds(),
        "photo": save(photo(), "JPEG"),
        "turned": with_orientation("JPEG", 6),
        "cut": save(photo(), "JPEG")[:200],
        "cut behind the header": save(photo(), "JPEG")[:-200],
        "empty": b"",
        "html": b"<html>",
    }
    steps = (Probe(verify="header", max_pixels=1_000_000, **options),)
    seen = {}
    for name, data in given.items():
        parts = (Text(text="x"), Media(kind="image", data=data, uri=name))
        sample = Sample(key="a", parts=parts, origin=Origin(uri="", row=0))
        made = worker.at_sight(sample, steps)
        if made is not None:
            asked = worker._answer(
                worker.Job(unit=0, sample=sample), steps, Work.for_steps(steps), worker._Thumbnails()
            )
            assert made == asked, name
            seen[name] = made
    assert ("photo" in seen) == ("formats" not in options)
    assert not {"turned", "cut", "empty", "html"} & set(seen)
    assert Probe(verify="full").at_sight(sample) is None


def test_large_pictures_and_other_media_are_left_to_a_worker() -> None:
    step = Probe(verify="header")
    for media in (
        Media(kind="image", data=save(photo(), "JPEG") + bytes(AT_SIGHT_BYTES)),
        Media(kind="audio", data=save(photo(), "JPEG")),
        Media(kind="image"),
    ):
        sample = Sample(key="a", parts=(media,), origin=Origin(uri="", row=0))
        assert worker.at_sight(sample, (step,)) is None
