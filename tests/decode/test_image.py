from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from mmdata.decode import image, jpeg
from mmdata.errors import DataError

from .pictures import odd_kinds, photo, photographs, pillow, save, with_orientation

LIMIT = image.MAX_PIXELS


def reason(call: object, data: bytes, **options: object) -> str | None:
    """The reason of the DataError that a call raises, None for none; anything else goes up."""
    try:
        call(data, **{"max_pixels": LIMIT, **options})  # type: ignore[operator]
    except DataError as error:
        return error.reason
    return None


def chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", odd_kinds())
def test_pixels_equal_pillow_bit_for_bit(name: str) -> None:
    data = odd_kinds()[name]
    pixels = image.decode(data, max_pixels=LIMIT)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, pillow(data))
    picture = image.decode_picture(data, max_pixels=LIMIT)
    np.testing.assert_array_equal(np.asarray(picture), pixels)
    image.verify(data, max_pixels=LIMIT)


def test_real_photographs_equal_pillow() -> None:
    for path in photographs():
        data = path.read_bytes()
        header = image.read_header(data, max_pixels=LIMIT)
        pixels = image.decode(data, max_pixels=LIMIT)
        assert pixels.shape == (header.height, header.width, 3), path
        np.testing.assert_array_equal(pixels, pillow(data), err_msg=str(path))
        image.verify(data, max_pixels=LIMIT)


def test_headers_say_what_pillow_says() -> None:
    for name, data in odd_kinds().items():
        header = image.read_header(data, max_pixels=LIMIT)
        truth = Image.open(io.BytesIO(data))
        assert (header.width, header.height, header.mode) == (*truth.size, truth.mode), name
        assert header.frames == getattr(truth, "n_frames", 1), name
        assert header.alpha == truth.has_transparency_data, name
        assert header.format == name.split()[0].replace("apng", "png")
        assert header.orientation == 1
    assert image.read_header(odd_kinds()["png 1"], max_pixels=LIMIT).bits == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_all_orientations_equal_exif_transpose(format: str, value: int) -> None:
    data = with_orientation(format, value)
    header = image.read_header(data, max_pixels=LIMIT)
    assert header.orientation == value
    assert (header.height, header.width) == ((60, 40) if value >= 5 else (40, 60))
    expected = pillow(data)
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), expected)
    np.testing.assert_array_equal(np.asarray(image.decode_picture(data, max_pixels=LIMIT)), expected)
    scaled = image.decode_scaled(data, min_height=5, min_width=5, max_pixels=LIMIT)
    picture = image.decode_scaled_picture(data, min_height=5, min_width=5, max_pixels=LIMIT)
    assert picture.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(picture), scaled)
    assert (scaled.shape[0] > scaled.shape[1]) == (value >= 5)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (6, 1)])
@pytest.mark.parametrize("value", range(1, 9))
def test_pictures_of_one_row_or_column_do_not_go_backwards(size: tuple[int, int], value: int) -> None:
    data = with_orientation("JPEG", value, *size)
    scaled = image.decode_scaled(data, min_height=1, min_width=1, max_pixels=LIMIT)
    for pixels in (image.decode(data, max_pixels=LIMIT), scaled):
        np.testing.assert_array_equal(pixels, pillow(data))
        assert min(pixels.strides) > 0  # as torch demands


def test_orientation_after_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = save(photo(60, 40), "PNG")
    data = plain[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:]
    assert image.read_header(data, max_pixels=LIMIT).orientation == 6
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), pillow(data))


def test_ycck_and_unknown_adobe_transforms() -> None:
    cmyk = odd_kinds()["jpeg cmyk"]
    at = cmyk.index(b"Adobe") + 11
    for transform in (2, 77):  # YCCK, and nonsense, which libjpeg takes for YCCK.
        data = cmyk[:at] + bytes([transform]) + cmyk[at + 1 :]
        np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), pillow(data))
    rgb = odd_kinds()["jpeg rgb"]
    at = rgb.index(b"Adobe") + 11
    data = rgb[:at] + bytes([9]) + rgb[at + 1 :]
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), pillow(data))


def test_wide_grey_is_scaled_not_clipped() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    for data in (save(Image.fromarray(ramp), "PNG"), save(Image.fromarray(ramp), "TIFF")):
        header = image.read_header(data, max_pixels=LIMIT)
        assert (header.bits, header.grey, header.mode[:4]) == (16, True, "I;16")
        pixels = image.decode(data, max_pixels=LIMIT)
        np.testing.assert_array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("colour", [2, 4, 6])
def test_sixteen_bit_colour_keeps_its_high_bytes(colour: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colour]
    samples = np.random.default_rng(colour).integers(0, 65536, (8, 8, channels)).astype(">u2")
    if colour != 2:
        samples[..., -1] = 0xFFFF
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    data = png(8, 8, chunk(b"IDAT", zlib.compress(rows)), depth=16, colour=colour)
    expected = (samples >> 8).astype(np.uint8)
    expected = np.repeat(expected[..., :1], 3, axis=2) if colour == 4 else expected[..., :3]
    assert image.read_header(data, max_pixels=LIMIT).bits == 16
    np.testing.assert_array_equal(image.decode(data, max_pixels=LIMIT), expected)


def test_samples_without_a_range_are_refused() -> None:
    for array in (np.ones((4, 4), np.int32), np.ones((4, 4), np.float32)):
        data = save(Image.fromarray(array), "TIFF")
        assert reason(image.decode, data) == "unsupported_format"
        assert reason(image.verify, data) == "unsupported_format"


def test_what_is_no_picture_is_named() -> None:
    expected = {
        b"": "empty",
        b"<!DOCTYPE html><html><body>404</body></html>": "html_not_image",
        b'<?xml version="1.0"?><Error/>': "html_not_image",
        b'{"error": "gone"}': "not_an_image",
        b"%PDF-1.4": "not_an_image",
        b"\0\1\2\3": "not_an_image",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic": "unsupported_format",
        b"<svg xmlns='x'>": "unsupported_format",
        b"\xff\xd8\xff\xe0": "truncated_image",
        b"\x89PNG\r\n\x1a\n": "bad_header",
        b"BM" + b"\xff" * 12 + b"\x28\0\0\0": "bad_header",
    }
    for data, expect in expected.items():
        found = reason(image.read_header, data)
        assert found == expect or {found, expect} == {"bad_header", "truncated_image"}, data
    with pytest.raises(DataError, match="json"):
        image.read_header(b'{"error": "gone"}', max_pixels=LIMIT)


def bombs() -> dict[str, bytes]:
    tiff = save(Image.new("L", (2, 2)), "TIFF")
    for tag in (256, 257):
        entry = tiff.index(struct.pack("<HHI", tag, 4, 1)) if struct.pack("<HHI", tag, 4, 1) in tiff else -1
        entry = entry if entry >= 0 else tiff.index(struct.pack("<HHI", tag, 3, 1))
        tiff = tiff[:entry] + struct.pack("<HHII", tag, 4, 1, 50_000) + tiff[entry + 12 :]
    frame = save(photo(16, 16), "JPEG")
    sof = frame.index(b"\xff\xc0") + 5
    bmp = save(photo(16, 16), "BMP")
    webp = with_orientation("WEBP", 3)
    vp8x = webp.index(b"VP8X") + 12
    return {
        "png": png(50_000, 50_000, chunk(b"IDAT", zlib.compress(bytes(1000)))),
        "jpeg": frame[:sof] + struct.pack(">HH", 50_000, 50_000) + frame[sof + 4 :],
        "gif": b"GIF89a" + struct.pack("<HH", 50_000, 50_000) + save(photo(16, 16).quantize(4), "GIF")[10:],
        "bmp": bmp[:18] + struct.pack("<ii", 50_000, 50_000) + bmp[26:],
        "webp": webp[:vp8x] + b"\xff\x3f\0\xff\x3f\0" + webp[vp8x + 6 :],
        "tiff": tiff,
    }


@pytest.mark.parametrize("name", bombs())
def test_bombs_are_refused_before_any_allocation(name: str) -> None:
    data = bombs()[name]
    tracemalloc.start()
    try:
        for call in (image.read_header, image.decode, image.verify, image.decode_picture):
            assert reason(call, data) == "decompression_bomb"
        assert reason(image.decode_scaled, data, min_height=1, min_width=1) == "decompression_bomb"
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_bombs_do_not_grow_the_process() -> None:
    """tracemalloc does not see what libraries allocate: watch the address space of a fresh process."""
    program = (
        "import resource, sys, tests.decode.test_image as t\n"
        "import PIL.WebPImagePlugin, PIL.TiffImagePlugin, PIL.GifImagePlugin, PIL.BmpImagePlugin, PIL.AvifImagePlugin\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 64_000_000,) * 2)\n"
        "print({t.reason(t.image.decode, data) for data in t.bombs().values()})\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'decompression_bomb'}", done.stderr


def test_memory_that_is_not_there_is_a_data_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import resource, zlib, tests.decode.test_image as t\n"
        "c = zlib.compressobj(1)\n"
        "rows = b''.join(c.compress(bytes(1 << 20)) for _ in range(414)) + c.flush()\n"
        "data = t.png(12_000, 12_000, t.chunk(b'IDAT', rows))\n"
        "small = t.save(t.photo(16, 16), 'JPEG')\n"
        "at = small.index(b'\\xff\\xc0') + 5\n"
        "wide = small[:at] + (12_000).to_bytes(2, 'big') * 2 + small[at + 4:]\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 128_000_000,) * 2)\n"
        "print(t.reason(t.image.decode, data), t.reason(t.image.decode, wide))\n"
    )
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["decoder_memory", "decoder_memory"], done.stderr


def test_only_our_limit_rules_and_pillows_comes_back() -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = save(Image.new("L", (400, 300)), "GIF")
    Image.MAX_IMAGE_PIXELS = 100
    try:
        assert image.decode(data, max_pixels=120_000).shape == (300, 400, 3)
        assert reason(image.decode, data, max_pixels=119_999) == "decompression_bomb"
        assert Image.MAX_IMAGE_PIXELS == 100
        threads = [threading.Thread(target=image.decode, args=(data,), kwargs={"max_pixels": LIMIT}) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Image.MAX_IMAGE_PIXELS == 100
    finally:
        Image.MAX_IMAGE_PIXELS = before


def test_scaled_decoding_keeps_to_its_guard() -> None:
    data = save(photo(1000, 600), "JPEG", quality=92)
    for side, guard, expected in ((250, 2.0, 600), (150, 2.0, 300), (150, 1.0, 150), (75, 2.0, 150), (10, 1.0, 75)):
        small = image.decode_scaled(data, min_height=side, min_width=side, max_pixels=LIMIT, guard=guard)
        assert small.shape == (expected, expected * 5 // 3, 3)
    half = image.decode_scaled(data, min_height=150, min_width=10, max_pixels=LIMIT).astype(float)
    truth = np.asarray(Image.fromarray(image.decode(data, max_pixels=LIMIT)).reduce(2), float)
    assert 10 * np.log10(255**2 / ((half - truth) ** 2).mean()) > 35


def test_encode_round_trips() -> None:
    pixels = np.asarray(photo(61, 47))
    np.testing.assert_array_equal(image.decode(image.encode(pixels, "png", 1), max_pixels=LIMIT), pixels)
    for format in ("jpeg", "webp"):
        coded = image.encode(pixels, format, 95)
        assert image.read_header(coded, max_pixels=LIMIT).format == format
        error = image.decode(coded, max_pixels=LIMIT).astype(float) - pixels
        assert 10 * np.log10(255**2 / (error**2).mean()) > 28
        assert len(image.encode(pixels, format, 40)) < len(coded)
    assert jpeg.layout(image.encode(pixels, "jpeg", 95)).subsampling == "420"
    assert jpeg.layout(image.encode(pixels, "jpeg", 95, subsampling="444")).subsampling == "444"
    grey = image.encode(pixels[..., 0], "jpeg", 95)
    assert image.read_header(grey, max_pixels=LIMIT).mode == "L"


def test_importing_mmdata_and_the_steps_loads_no_codec() -> None:
    names = ("mmdata", "mmdata.steps.probe", "mmdata.steps.resize", "mmdata.steps.min_side", "mmdata.steps.aspect")
    program = f"import sys, {', '.join(names)}; print([m for m in ('PIL', 'simplejpeg', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
