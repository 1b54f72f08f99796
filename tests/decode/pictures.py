"""Pictures for the tests of decoding: real photographs of installed packages, and files of every odd kind."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import sklearn
from PIL import Image, ImageOps

SKIMAGE = Path(skimage.__file__).parent / "data"
SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"


@cache
def photographs() -> list[Path]:
    """Every picture shipped with scikit-image and scikit-learn, but for one TIFF of 64-bit floats."""
    return sorted(
        path
        for folder in (SKIMAGE, SKLEARN)
        for path in folder.iterdir()
        if path.suffix in (".jpg", ".png", ".gif", ".tif") and path.name != "multipage_rgb.tif"
    )


@cache
def photo(width: int = 320, height: int = 240, mode: str = "RGB") -> Image.Image:
    return Image.open(SKIMAGE / "rocket.jpg").convert("RGB").resize((width, height)).convert(mode)


def save(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """The truth: Pillow, transposed, alpha on white as Hugging Face's `convert_to_rgb` does it."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    return np.asarray(image.convert("RGB"))


def with_orientation(format: str, value: int, width: int = 60, height: int = 40) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return save(photo(width, height), format, exif=exif)


def rgba(width: int = 64, height: int = 48) -> Image.Image:
    image = photo(width, height).convert("RGBA")
    ramp = np.linspace(0, 255, width, dtype=np.uint8)
    image.putalpha(Image.fromarray(np.tile(ramp, (height, 1))))
    return image


def frames(count: int = 3) -> list[Image.Image]:
    return [Image.fromarray(np.roll(np.asarray(photo(80, 60)), 7 * shift, axis=1)) for shift in range(count)]


@cache
def odd_kinds() -> dict[str, bytes]:
    """One small file of each kind that Pillow reads right by itself (so it can be the truth for it)."""
    palette = photo(64, 48).quantize(64)
    shown = rgba()
    first, *more = frames()
    animation: dict[str, Any] = {"save_all": True, "append_images": more, "duration": 40}
    grey = photo(64, 48, "L")
    return {
        "jpeg 4:2:0": save(photo(61, 47), "JPEG", quality=90, subsampling=2),
        "jpeg 4:4:4": save(photo(61, 47), "JPEG", quality=90, subsampling=0),
        "jpeg 4:2:2 progressive": save(photo(61, 47), "JPEG", progressive=True, subsampling=1),
        "jpeg restart": save(photo(61, 47), "JPEG", restart_marker_blocks=3),
        "jpeg grey": save(grey, "JPEG"),
        "jpeg rgb": save(photo(61, 47), "JPEG", keep_rgb=True),
        "jpeg cmyk": save(photo(64, 48, "CMYK"), "JPEG"),
        "png rgb": save(photo(64, 48), "PNG"),
        "png rgba": save(shown, "PNG"),
        "png la": save(shown.convert("LA"), "PNG"),
        "png l": save(grey, "PNG"),
        "png 1": save(grey.convert("1"), "PNG"),
        "png p": save(palette, "PNG"),
        "png p transparency": save(palette, "PNG", transparency=3),
        "png p alphas": save(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "png rgb colour key": save(photo(64, 48), "PNG", transparency=photo(64, 48).getpixel((5, 5))),
        "apng": save(first, "PNG", **animation),
        "gif": save(palette, "GIF"),
        "gif animated": save(first, "GIF", **animation),
        "webp": save(photo(64, 48), "WEBP", quality=80),
        "webp lossless": save(photo(64, 48), "WEBP", lossless=True),
        "webp alpha": save(shown, "WEBP", quality=80),
        "webp animated": save(first, "WEBP", **animation),
        "tiff": save(photo(64, 48), "TIFF"),
        "tiff lzw": save(photo(64, 48), "TIFF", compression="tiff_lzw"),
        "tiff cmyk": save(photo(64, 48, "CMYK"), "TIFF"),
        "tiff pages": save(first, "TIFF", **animation),
        "bmp": save(photo(64, 48), "BMP"),
        "bmp p": save(palette, "BMP"),
        "avif": save(photo(64, 48), "AVIF", quality=70),
        "avif alpha": save(shown, "AVIF", quality=70),
        "jp2": save(photo(64, 48), "JPEG2000"),
    }
