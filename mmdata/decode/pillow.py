"""Pillow for every format but JPEG: opening by sniffed format under our own size limit, orientation, and native
samples to RGB. Whatever Pillow raises on hostile bytes becomes a DataError here and nowhere else."""

from __future__ import annotations

import importlib
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mmdata.decode.structure import png_chunks
from mmdata.errors import DataError

Pixels = npt.NDArray[np.uint8]

PLUGINS = {
    "jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "png": ("PngImagePlugin", "PngImageFile"),
    "gif": ("GifImagePlugin", "GifImageFile"),
    "webp": ("WebPImagePlugin", "WebPImageFile"),
    "tiff": ("TiffImagePlugin", "TiffImageFile"),
    "bmp": ("BmpImagePlugin", "BmpImageFile"),
    "avif": ("AvifImagePlugin", "AvifImageFile"),
    "jp2": ("Jpeg2KImagePlugin", "Jpeg2KImageFile"),
}
ORIENTATION = 0x0112
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CUT_SHORT = ("truncated", "unexpected end", "not enough data", "file too short", "end of file", "incomplete checksum")
_UNSUPPORTED = ("cannot handle", "unknown pixel mode", "unsupported", "not supported", "not installed", "data organi")
_lock = threading.Lock()
_inside = 0
_pillows_limit: int | None = None


@contextmanager
def guarded(otherwise: str) -> Iterator[None]:
    """Run Pillow on untrusted bytes: its size limit is off (ours has been applied), its errors become DataError.

    Pillow's limit is one global number, so it is put back when the last thread leaves. `otherwise` is the reason
    for damage that the message does not tell to be truncation.
    """
    global _inside, _pillows_limit
    with _lock:
        if _inside == 0:
            _pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _inside += 1
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError("decoder_memory", "not enough memory for the pixels of this picture") from error
    except Exception as error:  # Its plugins raise nearly every built-in exception on damaged files.
        detail = f"{error}" or type(error).__name__
        if isinstance(error, EOFError) or any(words in detail.lower() for words in _CUT_SHORT):
            raise DataError("truncated_image", detail) from error
        if any(words in detail.lower() for words in _UNSUPPORTED):
            raise DataError("unsupported_format", detail) from error
        raise DataError(otherwise, detail) from error
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                Image.MAX_IMAGE_PIXELS = _pillows_limit


def open_image(data: bytes, format: str) -> ImageFile.ImageFile:
    """The picture with its header read and no pixel decoded. To be called under `guarded`.

    The one plugin that the magic bytes ask for is used, never a search through all of them.
    """
    module, name = PLUGINS[format]
    plugin = getattr(importlib.import_module(f"PIL.{module}"), name)
    return cast(ImageFile.ImageFile, plugin(io.BytesIO(data), ""))


def in_place(pixels: Pixels) -> Image.Image:
    """uint8 [H, W, 4] as a read-only Pillow image of mode RGB that reads this memory, uncopied.

    Pillow keeps RGB in four bytes. Its `frombuffer` would only call this memory RGBX, whose fourth sample it resizes
    too: a sixth of the time.
    """
    height, width = pixels.shape[:2]
    mapped = Image.core.map_buffer(pixels, (width, height), "raw", 0, ("RGB", 0, 1))  # type: ignore[attr-defined]
    image = Image.Image()._new(mapped)
    image.readonly = 1
    return image


def orientation(image: ImageFile.ImageFile, data: bytes, format: str) -> int:
    """EXIF (or XMP) orientation 1..8, 1 where there is none or it cannot be read; damaged EXIF spoils no picture."""
    try:
        if format == "png" and "exif" not in image.info:
            # Pillow would decode the whole picture to reach an eXIf chunk that follows the pixels.
            for kind, start, end in png_chunks(data):
                if kind == b"eXIf" and end <= len(data):
                    image.info["exif"] = b"Exif\0\0" + data[start:end]
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except Exception:
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def bits(image: ImageFile.ImageFile, data: bytes, format: str) -> int:
    """Bits per sample as stored (AVIF counts as 8: that is what its decoder hands out whatever the file holds)."""
    if format == "png":
        return data[24]
    if format == "tiff":
        return int(max(cast(Any, image).tag_v2.get(258, (1,))))
    if image.mode.startswith("I"):
        return 16
    return 1 if image.mode == "1" else 8


def eight_bit(image: Image.Image, stored_bits: int) -> Image.Image:
    """Wide greyscale scaled to 8 bits by dropping low bits. Pillow's own conversion clips at 255 instead: a 16-bit
    picture comes out white. Colour of 16 bits Pillow already reads by its high bytes."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image)
        return Image.fromarray(np.minimum(wide >> (max(stored_bits, 8) - 8), 255).astype(np.uint8))
    return image


def has_alpha(image: Image.Image) -> bool:
    # A colour key of 16-bit samples cannot be matched once the samples are 8-bit.
    return image.has_transparency_data and not image.mode.startswith("I")


def to_rgb(image: Image.Image, stored_bits: int) -> Image.Image:
    """Any mode to RGB: alpha composited on white, wide greyscale scaled, the rest as Pillow converts.

    Raises DataError `unsupported_format` for samples without a known range (32-bit integers, floats) and for colour
    spaces that Pillow cannot turn into RGB without a profile (LAB).
    """
    if image.mode in ("I", "F", "LAB"):
        raise DataError("unsupported_format", f"samples of mode {image.mode!r} have no defined conversion to RGB")
    if image.mode.startswith("I;16"):
        image = eight_bit(image, stored_bits)
    elif image.has_transparency_data:
        key = image.info.get("transparency")
        if stored_bits == 16 and key is not None and image.mode in ("L", "RGB"):
            image.info["transparency"] = key >> 8 if isinstance(key, int) else tuple(value >> 8 for value in key)
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
