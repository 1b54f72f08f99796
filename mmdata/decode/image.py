"""Pictures: encoded bytes to a header, to upright RGB pixels, and back to bytes.

JPEG goes through our kernel or libjpeg-turbo, everything else through Pillow; all give the same bits as Pillow alone.
Nothing is allocated before the header has passed the pixel limit, and damage anywhere in the file is an error:
libraries prefer to go on with grey.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from mmdata.decode import jpeg, pillow, structure
from mmdata.decode.sniff import sniff
from mmdata.errors import DataError

Pixels = npt.NDArray[np.uint8]
Encoded = Literal["jpeg", "png", "webp"]
FORMATS = tuple(pillow.PLUGINS)
"""Formats that can be decoded."""
MAX_PIXELS = 178_956_970
"""Default pixel limit: half a gibibyte of RGB, the number at which Pillow refuses too."""
_PICTURES = {*FORMATS, "heic", "jxl", "ico", "svg", "psd"}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header says. `height` and `width` are upright; `mode` is Pillow's name for the stored samples, of
    `bits` bits each; `frames` counts animation frames or pages; `orientation` is the EXIF value 1..8;
    `alpha` says that some kind of transparency is declared (a channel, a palette, a colour key)."""

    format: str
    height: int
    width: int
    mode: str
    bits: int
    frames: int
    orientation: int
    alpha: bool

    @property
    def grey(self) -> bool:
        return self.mode in ("1", "L", "LA", "La") or self.mode.startswith("I")


def read_header(data: bytes, *, max_pixels: int) -> ImageHeader:
    """The header of a picture, no pixel decoded.

    Raises DataError: `empty`; `html_not_image`, `not_an_image` (the detail names what the bytes are);
    `unsupported_format`; `bad_header`, or `truncated_image` where the bytes end inside the header;
    `decompression_bomb` for more than `max_pixels` pixels.
    """
    return _open(data, max_pixels)[1]


def _open(data: bytes, max_pixels: int) -> tuple[ImageFile.ImageFile, ImageHeader]:
    format = _format(data)
    if format == "webp":
        _check_webp_canvas(data, max_pixels)
    try:
        with pillow.guarded("bad_header"):
            image = pillow.open_image(data, format)
    except DataError:
        structure.check(data, format)  # Says more than "cannot read" when the file is cut short.
        raise
    width, height = image.size
    _check_size(height, width, max_pixels)
    if format == "jpeg":
        if not getattr(image, "tile", None):
            raise DataError("truncated_image", f"JPEG ends after {len(data):,} bytes, before its first scan")
        if "progressive" in image.info:
            jpeg.check_scans(data)
    with pillow.guarded("bad_header"):
        orientation = pillow.orientation(image, data, format)
        frames = structure.gif_frames(data, whole=False) if format == "gif" else getattr(image, "n_frames", 1)
        bits = pillow.bits(image, data, format)
        alpha = pillow.has_alpha(image)
    if orientation >= 5 and format != "tiff":  # Pillow turns TIFF itself.
        height, width = width, height
    header = ImageHeader(format, height, width, image.mode, bits, max(frames, 1), orientation, alpha)
    return image, header


def _format(data: bytes) -> str:
    format = sniff(data)
    if not data:
        raise DataError("empty", "no bytes")
    if format in ("html", "xml"):
        raise DataError("html_not_image", f"{format}: {data[:60]!r}")
    if format not in _PICTURES:
        raise DataError("not_an_image", format or f"unknown bytes: {data[:8].hex(' ')}")
    if format not in FORMATS:
        raise DataError("unsupported_format", format)
    return format


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise DataError("bad_header", f"{width}x{height} pixels")
    if height * width > max_pixels:
        raise DataError("decompression_bomb", f"{width}x{height} pixels, more than {max_pixels:,}")


def _check_webp_canvas(data: bytes, max_pixels: int) -> None:
    """libwebp's animation decoder allocates its canvas when it is opened, so the size is read here before."""
    kind = data[12:16]
    if len(data) < 30:
        raise DataError("truncated_image", f"WebP ends after {len(data)} bytes")
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        packed = int.from_bytes(data[21:25], "little")
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    _check_size(height, width, max_pixels)


def decode(data: bytes, *, max_pixels: int, header: ImageHeader | None = None) -> Pixels:
    """Upright RGB, uint8 [H, W, 3], the first frame of an animation.

    Bit-equal to Pillow: EXIF orientation applied, alpha composited on white, CMYK, palette and grey converted; samples
    of more than 8 bits keep their high bits. `header` spares reading it again. Raises DataError as `read_header` does,
    and `truncated_image`, `corrupt_image`, `decoder_memory`.
    """
    header = header or read_header(data, max_pixels=max_pixels)
    if header.format == "jpeg":
        return _decode_jpeg(data, header, 1)
    structure.check(data, header.format)
    image, _ = _open(data, max_pixels)
    with pillow.guarded("corrupt_image"):
        image.load()
        pixels = np.asarray(pillow.to_rgb(image, header.bits))
    return _upright(pixels, 1 if header.format == "tiff" else header.orientation)


def decode_picture(data: bytes, *, max_pixels: int, header: ImageHeader | None = None) -> Image.Image:
    """The pixels of `decode` as a Pillow image of mode RGB, not to be changed.

    Four bytes a pixel is what libjpeg-turbo writes and Pillow reads in place; an RGB array has to be copied, which
    costs Pillow a seventh of the time of decoding.
    """
    header = header or read_header(data, max_pixels=max_pixels)
    return _picture(data, header, 1, max_pixels)


def _picture(data: bytes, header: ImageHeader, factor: int, max_pixels: int) -> Image.Image:
    if header.format != "jpeg":
        return Image.fromarray(decode(data, max_pixels=max_pixels, header=header))
    if header.orientation == 1 and header.mode != "CMYK":
        try:
            return pillow.in_place(jpeg.decode(data, colorspace="RGBX", factor=factor))
        except DataError as error:
            if error.reason != "unsupported_format":
                raise
    return Image.fromarray(_decode_jpeg(data, header, factor))


def decode_scaled(
    data: bytes,
    *,
    min_height: int,
    min_width: int,
    max_pixels: int,
    guard: float = 2.0,
    header: ImageHeader | None = None,
) -> Pixels:
    """Upright RGB of at least `guard * min_height` by `guard * min_width` pixels, cheaper than all of them.

    JPEG is decoded at 1/2, 1/4 or 1/8 (the scales with a fast inverse DCT) where that leaves enough; otherwise, and for
    other formats, this is `decode`. The whole file is read and checked either way, and the same errors are raised.
    """
    header = header or read_header(data, max_pixels=max_pixels)
    if header.format != "jpeg":
        return decode(data, max_pixels=max_pixels, header=header)
    return _decode_jpeg(data, header, _factor(header, guard * max(min_height, 1), guard * max(min_width, 1)))


def decode_scaled_picture(
    data: bytes,
    *,
    min_height: int,
    min_width: int,
    max_pixels: int,
    guard: float = 2.0,
    header: ImageHeader | None = None,
) -> Image.Image:
    """The pixels of `decode_scaled` as `decode_picture` hands them out."""
    header = header or read_header(data, max_pixels=max_pixels)
    factor = _factor(header, guard * max(min_height, 1), guard * max(min_width, 1))
    return _picture(data, header, factor, max_pixels)


def _factor(header: ImageHeader, height: float, width: float) -> int:
    """The largest scale that leaves at least `height` by `width` pixels."""
    scale = min(header.height / height, header.width / width)
    return next((factor for factor in (8, 4, 2) if factor <= scale), 1)


def _decode_jpeg(data: bytes, header: ImageHeader, factor: int) -> Pixels:
    if header.mode == "CMYK":
        inks = jpeg.decode(data, colorspace="CMYK", factor=factor)
        height, width = inks.shape[:2]
        # Every known writer of CMYK JPEG stores inverted inks, as Adobe does.
        pixels = np.asarray(Image.frombuffer("CMYK", (width, height), inks, "raw", "CMYK;I", 0, 1).convert("RGB"))
        return _upright(pixels, header.orientation)
    try:
        pixels = jpeg.decode(data, factor=factor)
    except DataError as error:
        if error.reason != "unsupported_format":
            raise
        # Rare samplings that TurboJPEG does not know and libjpeg does.
        with pillow.guarded("corrupt_image"):
            image = pillow.open_image(data, "jpeg")
            image.load()
            pixels = np.asarray(image.convert("RGB"))
    return _upright(pixels, header.orientation)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels by the EXIF orientation."""
    if orientation in (3, 4, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7):
        pixels = pixels[:, ::-1]
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation == 6:
        pixels = pixels[:, ::-1]
    if orientation == 8:
        pixels = pixels[::-1]
    # A single row or column that goes backwards numpy takes for contiguous, and torch does not take.
    return pixels.copy() if min(pixels.strides) < 0 else np.ascontiguousarray(pixels)


def verify(data: bytes, *, max_pixels: int) -> None:
    """Prove that the whole file decodes, every frame and page, as cheaply as can be.

    Of a plain JPEG only the codes are read; others are decoded at 1/8, for which all their coefficients are read too.
    Raises what a full decode raises.
    """
    header = read_header(data, max_pixels=max_pixels)
    if header.format == "jpeg":
        if not jpeg.check(data):
            _decode_jpeg(data, header, 8)
        return
    decode(data, max_pixels=max_pixels, header=header)
    if header.frames > 1:
        verify_frames(data, max_pixels=max_pixels)


def verify_frames(data: bytes, *, max_pixels: int) -> None:
    """Decode every frame of an animation or page of a TIFF, one at a time. Raises DataError as `decode` does."""
    image, header = _open(data, max_pixels)
    structure.check(data, header.format)
    for frame in range(header.frames):
        with pillow.guarded("corrupt_image"):
            try:
                image.seek(frame)
            except EOFError as error:
                raise DataError("truncated_image", f"frame {frame} of {header.frames} is missing") from error
            _check_size(image.size[1], image.size[0], max_pixels)
            image.load()


def lossless(data: bytes, header: ImageHeader) -> bool:
    """Whether the file stores its samples without loss."""
    if header.format == "webp":
        return b"VP8L" in (data[12:16], *(data[at : at + 4] for at in _webp_chunks(data)))
    return header.format not in ("jpeg", "avif", "jp2")


def _webp_chunks(data: bytes) -> list[int]:
    starts, at = [], 12
    while at + 8 <= len(data):
        starts.append(at)
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1
    return starts


def family(data: bytes, header: ImageHeader, *, alpha: bool) -> Encoded:
    """The format to write a changed picture in: lossless stays lossless (PNG), JPEG stays JPEG, other lossy formats
    become WebP where transparency is to be kept or was WebP before, and JPEG otherwise."""
    if lossless(data, header):
        return "png"
    return "webp" if header.format == "webp" or (alpha and header.alpha) else "jpeg"


def encode(pixels: Pixels, format: Encoded, quality: int, *, subsampling: str = "420") -> bytes:
    """Encode uint8 [H, W, 3] RGB, or [H, W] grey. `quality` is 1..100 for JPEG and WebP and has no meaning for PNG."""
    if format == "jpeg":
        return jpeg.encode(pixels, quality, subsampling)
    return encode_image(Image.fromarray(pixels), format, quality)


def encode_image(image: Image.Image, format: Encoded, quality: int) -> bytes:
    """Encode in Pillow's native mode, so that palette, alpha and 16 bits survive; EXIF and other metadata do not."""
    bare = image.copy()
    bare.info = {key: value for key, value in image.info.items() if key == "transparency"}
    out = io.BytesIO()
    if format == "png":
        bare.save(out, "PNG")
    elif format == "webp":
        bare.save(out, "WEBP", quality=quality)
    else:
        bare.convert("L" if bare.mode in ("1", "L") else "RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def rewrite(
    data: bytes, *, max_pixels: int, flatten: bool, eight_bit: bool, rgb: bool, format: Encoded, quality: int
) -> tuple[bytes, int, int, str]:
    """The first frame upright in its native mode, re-encoded: (bytes, height, width, Pillow mode).

    `flatten` composites alpha on white, `eight_bit` scales wide samples down, `rgb` converts to RGB. What `format`
    cannot hold is converted too. Raises DataError as `decode` does.
    """
    image, header = _open(data, max_pixels)
    if header.format == "jpeg":
        pixels = _decode_jpeg(data, header, 1)
        grey = header.mode == "L" and not rgb
        stored = pixels[..., 0] if grey else pixels
        # 4:4:4 unless the source was subsampled already: a turn must not blur colour that was sharp.
        known = {"420", "422", "440", "411"}
        sampling = jpeg.layout(data).subsampling if header.mode == "RGB" else "444"
        coded = encode(stored, format, quality, subsampling=sampling if sampling in known else "444")
        return coded, pixels.shape[0], pixels.shape[1], "L" if grey else "RGB"
    structure.check(data, header.format)
    with pillow.guarded("corrupt_image"):
        image.load()
        upright: Image.Image = image
        if header.format != "tiff" and header.orientation > 1:
            upright = image.transpose(pillow.TRANSPOSE[header.orientation])
        if rgb or (flatten and header.alpha):
            upright = pillow.to_rgb(upright, header.bits)
        elif eight_bit:
            upright = pillow.eight_bit(upright, header.bits)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray(np.asarray(upright).astype(np.uint16))  # Either byte order becomes "I;16".
        if format == "png" and upright.mode not in ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"):
            upright = pillow.to_rgb(upright, header.bits)
        if format == "webp" and upright.mode not in ("L", "RGB", "RGBA"):
            upright = upright.convert("RGBA" if header.alpha and not flatten else "RGB")
        if format == "jpeg" and upright.mode != "L":
            upright = pillow.to_rgb(upright, header.bits)
        coded = encode_image(upright, format, quality)
    return coded, upright.height, upright.width, upright.mode
