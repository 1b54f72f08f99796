"""JPEG by the kernel beside libjpeg-turbo: the same pixels of whatever encoders write, nothing of what is
damaged or unusual, and no byte beside the file read or beside the pixels written."""

from __future__ import annotations

import ctypes
import io
import mmap
import random
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from PIL import Image

from mmdata.decode import image
from mmdata.decode import jpeg as decoder
from mmdata.errors import DataError
from mmdata.native import jpeg
from mmdata.native.library import AVX2, kernels
from mmdata.native.library import level as highest
from tests.decode.pictures import SKIMAGE, SKLEARN, with_orientation

pytestmark = [
    pytest.mark.skipif(highest() < AVX2, reason="the kernels were not compiled, or this processor has not AVX2"),
    pytest.mark.usefixtures("level"),
]
PHOTOGRAPHS = sorted(path for folder in (SKIMAGE, SKLEARN) for path in folder.iterdir() if path.suffix == ".jpg")
KINDS = ("noise", "blocks", "ramp", "soft", "flat", "edges")


def drawn(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width][..., None]
    shape = (height, width, 3)
    coarse = (-(-height // 8), -(-width // 8), 3)
    made: np.ndarray = {
        "noise": lambda: draw.integers(0, 256, shape),
        "blocks": lambda: np.kron(draw.integers(0, 256, coarse), np.ones((8, 8, 1), int))[:height, :width],
        "ramp": lambda: (y * [1, 2, 3] + x * [3, 1, 2]) % 256,
        "soft": lambda: draw.normal(128, 12, shape).clip(0, 255),
        "flat": lambda: np.broadcast_to(draw.integers(0, 256, 3), shape),
        "edges": lambda: np.where((x // 5 + y // 3) % 2, 255, [0, 128, 0]),
    }[kind]()
    return np.ascontiguousarray(made, np.uint8)


def coded(pixels: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", **options)
    return out.getvalue()


def check(data: bytes) -> None:
    """Both forms are libjpeg-turbo's, which finds no fault."""
    expected = simplejpeg.decode_jpeg(data)
    three, four = jpeg.pixels(data, 3), jpeg.pixels(data, 4)
    assert jpeg.whole(data)
    assert three is not None
    assert four is not None
    np.testing.assert_array_equal(three, expected)
    np.testing.assert_array_equal(four[..., :3], expected)
    assert (four[..., 3] == 255).all()


def check_scaled(data: bytes) -> None:
    """And those of smaller pictures are, but where libjpeg-turbo does not smooth chroma."""
    height, width, _, sampling = simplejpeg.decode_jpeg_header(data)
    for factor in (2, 4, 8):
        expected = simplejpeg.decode_jpeg(data, min_height=-(-height // factor), min_width=-(-width // factor))
        found = jpeg.pixels(data, 3, factor)
        if found is None:
            assert sampling == "422"
            assert factor == 8 or -(-width // factor) <= 4
        else:
            np.testing.assert_array_equal(found, expected)


def scan_of(data: bytes) -> int:
    """Where the first scan's codes begin."""
    at = data.index(b"\xff\xda")
    return at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


@pytest.mark.parametrize("path", PHOTOGRAPHS, ids=lambda path: path.name)
def test_photographs_as_they_are(path: Any) -> None:
    check(path.read_bytes())
    check_scaled(path.read_bytes())


@given(
    st.sampled_from(KINDS),
    st.integers(1, 150),
    st.integers(5, 150),
    st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "grey"]),
    st.sampled_from([1, 10, 50, 75, 90, 100]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=200)
def test_pixels_are_libjpeg_turbos(
    kind: str,
    height: int,
    width: int,
    sampling: str,
    quality: int,
    optimize: bool,
    progressive: bool,
    restart: int,
    seed: int,
) -> None:
    pixels = drawn(kind, height, width, seed)
    options: dict[str, Any] = {"quality": quality, "optimize": optimize, "progressive": progressive}
    if restart:
        options["restart_marker_blocks" if seed % 2 else "restart_marker_rows"] = restart
    grey = sampling == "grey"
    data = coded(pixels[..., 0], **options) if grey else coded(pixels, subsampling=sampling, **options)
    check(data)
    if max(height, width) >= 32:
        check_scaled(data)


@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_every_width_and_height_at_the_edges(sampling: str) -> None:
    """Of units, of strips, and of what is written at once."""
    for width in (*range(5, 36), 63, 64, 65, 95, 96, 97, 127, 128, 129):
        check(coded(drawn("noise", 19, width, width), subsampling=sampling))
    for height in range(1, 50):
        data = coded(drawn("soft", height, 40, height), subsampling=sampling)
        check(data)
        check_scaled(data)


@given(st.lists(st.integers(1, 255), min_size=128, max_size=128), st.sampled_from(KINDS), st.sampled_from([0, 1, 2]))
@settings(deadline=None, max_examples=100)
def test_steps_beyond_all_encoders_wrap_and_saturate_alike(steps: list[int], kind: str, subsampling: int) -> None:
    data = bytearray(coded(drawn(kind, 40, 56, 3), quality=100, subsampling=subsampling))
    tables = []
    at = 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xDB:
            tables += range(at + 5, end, 65)
        at = end
    assert len(tables) == 2
    for table, begin in enumerate(tables):
        data[begin : begin + 64] = bytes(steps[64 * table : 64 * table + 64])
    check(bytes(data))
    for factor in (2, 4, 8):
        found = jpeg.pixels(bytes(data), 3, factor)
        if found is not None:  # All values are within what any picture has, or nothing comes of them.
            sides = {"min_height": 40 // factor, "min_width": 56 // factor}
            np.testing.assert_array_equal(found, simplejpeg.decode_jpeg(bytes(data), **sides))


def test_means_that_grow_beyond_all_encoders() -> None:
    """A scan whose differences are all as large as a code may make them."""
    data = coded(drawn("flat", 8, 8 * 40, 0)[..., 0], quality=100)
    begin = scan_of(data)
    for size, code in ((9, "1111110"), (10, "11111110"), (11, "111111110")):  # of the standard's table for luma
        for value in ("1" * size, "0" * size):
            bits = (code + value + "1010") * 40
            bits += "1" * (-len(bits) % 8)
            body = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
            made = data[:begin] + body + b"\xff\xd9"
            found = jpeg.pixels(made, 3)
            if found is None:  # beyond int16
                assert 40 * (2**size - 1) > 32767
            else:
                np.testing.assert_array_equal(found, simplejpeg.decode_jpeg(made))


SMALL = coded(drawn("soft", 40, 56, 5), quality=80, subsampling=2)
PROGRESSIVE = coded(drawn("soft", 40, 56, 5), quality=80, subsampling=2, progressive=True)
RESTARTED = coded(drawn("noise", 24, 40, 6), quality=60, subsampling=1, restart_marker_blocks=2)


@pytest.mark.parametrize("data", [SMALL, RESTARTED, PROGRESSIVE], ids=["plain", "restarted", "progressive"])
def test_no_part_of_a_file_is_a_picture(data: bytes) -> None:
    for size in range(len(data)):
        assert jpeg.pixels(data[:size], 3) is None, size
        assert not jpeg.whole(data[:size]), size
    check(data + b"whatever follows the end")


@pytest.mark.parametrize("data", [SMALL, RESTARTED, PROGRESSIVE], ids=["plain", "restarted", "progressive"])
def test_damage_is_refused_or_is_as_libjpeg_turbo_reads_it(data: bytes) -> None:
    draw = random.Random(8)
    read = 0
    for at in range(2, len(data)):
        damaged = bytearray(data)
        damaged[at] = draw.choice([damaged[at] ^ 1 << draw.randrange(8), 255, 0, draw.randrange(256)])
        found = jpeg.pixels(bytes(damaged), 3)
        assert jpeg.whole(bytes(damaged)) == (found is not None)
        if found is not None:
            read += 1
            np.testing.assert_array_equal(found, through_turbo(bytes(damaged)))
    assert read > len(data) // 10  # Most of what is changed in the codes only makes other pixels.


def through_turbo(data: bytes) -> np.ndarray:
    """What `decoder` makes of a file without the kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jpeg, "pixels", lambda data, channels, factor: None)
        return decoder.decode(data)


def test_segments_that_are_of_no_use_are_passed() -> None:
    begin = SMALL.index(b"\xff\xdb")
    for segment in (b"\xff\xfe\0\x06abcd", b"\xff\xe1\0\x08Exif\0\0", b"\xff\xe2\0\x04ab", b"\xff\xee\0\x04ab"):
        check(SMALL[:begin] + segment + SMALL[begin:])


def test_what_is_not_plain_is_for_others() -> None:
    pixels = drawn("soft", 40, 56, 5)
    begin, scan = SMALL.index(b"\xff\xdb"), scan_of(SMALL)
    frame = SMALL.index(b"\xff\xc0")
    colours = Image.fromarray(pixels).convert("CMYK")
    out = io.BytesIO()
    colours.save(out, "JPEG")
    unusual = {
        "a scan that is left out": PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xc4")] + b"\xff\xd9",
        "a scan twice": PROGRESSIVE[:-2] + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xc4") :],
        "steps between scans": PROGRESSIVE[:-2] + SMALL[begin : begin + 69] + PROGRESSIVE[-2:],
        "cmyk": out.getvalue(),
        "rgb": coded(pixels, keep_rgb=True),
        "4:4:0": simplejpeg.encode_jpeg(pixels, colorsubsampling="440"),
        "4:1:1": simplejpeg.encode_jpeg(pixels, colorsubsampling="411"),
        "two columns of chroma": coded(pixels[:, :4], subsampling=2),
        "no end": SMALL[:-2],
        "another end": SMALL[:-2] + b"\xff\xd0",
        "padded end": SMALL[:-2] + bytes(3) + SMALL[-2:],
        "bytes between segments": SMALL[:begin] + b"\0" + SMALL[begin:],
        "filled marker": SMALL[:begin] + b"\xff" + SMALL[begin:],
        "arithmetic": SMALL[:frame] + b"\xff\xc9" + SMALL[frame + 2 :],
        "lossless": SMALL[:frame] + b"\xff\xc3" + SMALL[frame + 2 :],
        "twelve bits": SMALL[: frame + 4] + b"\x0c" + SMALL[frame + 5 :],
        "two frames": SMALL[:frame] + SMALL[frame : frame + 19] + SMALL[frame:],
        "no height": SMALL[: frame + 5] + b"\0\0" + SMALL[frame + 7 :],
        "spectral selection": SMALL[: scan - 2] + b"\x3e" + SMALL[scan - 1 :],
        "another version of JFIF": SMALL[:11] + b"\x02" + SMALL[12:],
        "nothing": b"",
        "a beginning": b"\xff\xd8",
    }
    for name, data in unusual.items():
        assert jpeg.pixels(data, 3) is None, name


def test_colours_are_told_as_libjpeg_tells_them() -> None:
    """By JFIF, else by Adobe's mark, else by the numbers of the components."""
    jfif = SMALL.index(b"\xff\xe0")
    end = jfif + 2 + int.from_bytes(SMALL[jfif + 2 : jfif + 4], "big")
    bare = SMALL[:jfif] + SMALL[end:]
    adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"
    check(bare)
    check(bare[:2] + adobe + b"\1" + bare[2:])
    check(SMALL[:end] + adobe + b"\0" + SMALL[end:])
    assert jpeg.pixels(bare[:2] + adobe + b"\0" + bare[2:], 3) is None
    assert jpeg.pixels(bare[:2] + adobe + b"\2" + bare[2:], 3) is None
    frame, scan = bare.index(b"\xff\xc0"), bare.index(b"\xff\xda")
    named = bytearray(bare)
    for place, letter in enumerate(b"RGB"):
        named[frame + 10 + 3 * place] = named[scan + 5 + 2 * place] = letter
    assert jpeg.pixels(bytes(named), 3) is None


def test_nothing_is_written_beside_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    for turn in range(300):
        width, height, channels = draw.randint(5, 140), draw.randint(1, 40), draw.choice([3, 4])
        data = bytearray(coded(drawn("soft", height, width, turn), subsampling=draw.randrange(3)))
        if turn % 3:
            data[draw.randrange(scan_of(data), len(data))] = draw.randrange(256)
        factor = draw.choice([1, 1, 2, 4, 8])
        size = -(-height // factor) * -(-width // factor) * channels
        room = np.full(size + 128, 7, np.uint8)
        library = kernels()
        assert library is not None
        file = np.frombuffer(data, np.uint8)
        library.mmdata_jpeg(
            file.ctypes.data, len(data), height, width, factor, channels, room[64:].ctypes.data, None, highest()
        )
        assert (room[:64] == 7).all()
        assert (room[64 + size :] == 7).all()


@pytest.mark.parametrize("progressive", [False, True])
def test_nothing_is_read_behind_the_file(progressive: bool) -> None:
    """It ends where a page does, and the next page must not be touched."""
    data = coded(drawn("soft", 60, 130, 2), subsampling=2, progressive=progressive)
    pages = -(-len(data) // mmap.PAGESIZE)
    room = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    every = np.frombuffer(room, np.uint8)
    beyond = ctypes.c_void_p(every[pages * mmap.PAGESIZE :].ctypes.data)
    assert ctypes.CDLL(None).mprotect(beyond, mmap.PAGESIZE, 0) == 0
    library, sides = kernels(), (ctypes.c_int64 * 3)()
    assert library is not None
    pixels = np.empty((60, 130, 3), np.uint8)
    assert not library.mmdata_jpeg_size(np.frombuffer(data, np.uint8).ctypes.data, len(data), sides)
    values = np.empty(sides[2], np.uint8)
    assert (len(values) > 0) == progressive
    for size in range(1, len(data) + 1):
        end = every[pages * mmap.PAGESIZE - size : pages * mmap.PAGESIZE]
        end[:] = np.frombuffer(data[:size], np.uint8)
        refused = library.mmdata_jpeg_size(end.ctypes.data, size, sides)
        whole = not library.mmdata_jpeg(
            end.ctypes.data, size, 60, 130, 1, 3, pixels.ctypes.data, values.ctypes.data, highest()
        )
        assert whole == (size == len(data))
        assert not (whole and refused)


def test_pictures_are_decoded_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And libjpeg-turbo is asked only where it says nothing."""
    expected = simplejpeg.decode_jpeg(SMALL)
    turned = with_orientation("JPEG", 6)
    upright = image.decode(turned, max_pixels=10**6)

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("libjpeg-turbo was asked")

    monkeypatch.setattr(simplejpeg, "decode_jpeg", never)
    np.testing.assert_array_equal(image.decode(SMALL, max_pixels=10**6), expected)
    np.testing.assert_array_equal(np.asarray(image.decode_picture(SMALL, max_pixels=10**6)), expected)
    np.testing.assert_array_equal(image.decode(turned, max_pixels=10**6), upright)
    np.testing.assert_array_equal(decoder.decode(bytearray(SMALL)), expected)  # type: ignore[arg-type]
    assert decoder.decode(SMALL, factor=4).shape == (10, 14, 3)
    monkeypatch.undo()
    with pytest.raises(DataError, match="truncated_image"):
        decoder.decode(SMALL[:-30])
    monkeypatch.setenv("MMDATA_NATIVE", "0")
    kernels.cache_clear()
    assert jpeg.pixels(SMALL, 3) is None
    monkeypatch.undo()
    kernels.cache_clear()
