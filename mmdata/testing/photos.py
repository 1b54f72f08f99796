"""Real photographs that come with pip packages, and many distinct captioned pictures cut from them.

Nothing is downloaded or copied into this repository: the files are found inside installed packages (the
`example` extra), without importing those packages. Pictures of people are left out. Captions are ours.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmdata.rng import generator

Format = Literal["jpeg", "png", "webp"]

LEAST_SIDE = 256
MOST_SIDE = 1024
MOST_PIXELS = 2_000_000
MOST_ENLARGED = 3.0
LEAST_CROP = 0.3
APART = 12
"""Any two variants differ in more bits than this of either perceptual hash: about twice a usual search radius."""
PNG_PIXELS = 120_000
TRIES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photograph: `caption` is a noun phrase, `licence` what its package says of it, `package` its
    distribution's name."""

    name: str
    path: Path
    package: str
    licence: str
    caption: str


# (import name, path in it, licence as its package states it, caption)
_SKIMAGE, _SKLEARN = ("skimage", "scikit-image"), ("sklearn", "scikit-learn")
_PHOTOS: tuple[tuple[tuple[str, str], str, str, str], ...] = (
    (_SKIMAGE, "data/brick.png", "CC0", "a grey brick wall"),
    (_SKIMAGE, "data/cell.png", "CC0", "a single cell floating under a microscope"),
    (_SKIMAGE, "data/chelsea.png", "CC0 (Stefan van der Walt)", "a ginger tabby cat with green eyes"),
    (_SKIMAGE, "data/coffee.png", "CC0 (Rachel Michetti)", "a cup of espresso on a wooden table"),
    (_SKIMAGE, "data/coins.png", "no known copyright restrictions", "ancient Greek coins on a dark tray"),
    (_SKIMAGE, "data/grass.png", "CC0", "dry grass on the ground"),
    (_SKIMAGE, "data/gravel.png", "CC0", "loose gravel stones"),
    (_SKIMAGE, "data/hubble_deep_field.jpg", "public domain (NASA)", "distant galaxies in deep space"),
    (_SKIMAGE, "data/ihc.png", "no known copyright restrictions", "stained tissue under a microscope"),
    (_SKIMAGE, "data/moon.png", "public domain", "craters on the surface of the moon"),
    (_SKIMAGE, "data/motorcycle_left.png", "CC0", "a red motorcycle in a garage"),
    (_SKIMAGE, "data/page.png", "BSD-3-Clause", "a printed page from a book"),
    (_SKIMAGE, "data/retina.jpg", "CC0", "blood vessels in a human retina"),
    (_SKIMAGE, "data/rocket.jpg", "public domain (SpaceX)", "a rocket on its launch pad at dusk"),
    (_SKIMAGE, "data/text.png", "CC0", "handwritten formulas on grey paper"),
    (_SKLEARN, "datasets/images/china.jpg", "CC-BY-2.0 (danielbuechele)", "a Chinese pagoda above a lake"),
    (_SKLEARN, "datasets/images/flower.jpg", "CC-BY-2.0 (vultilion)", "an orange dahlia in a garden"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One encoded picture cut from a photograph, with a caption of 3 to 15 words. `phash` is `phash` of its pixels
    before encoding."""

    number: int
    photo: str
    data: bytes
    format: Format
    width: int
    height: int
    caption: str
    phash: int


def photos() -> list[Photo]:
    """All photographs, always in the same order. Raises RuntimeError naming what to install where one is missing."""
    found = []
    for (module, package), inside, licence, caption in _PHOTOS:
        path = _root(module) / inside
        if not path.exists():
            raise RuntimeError(
                f"{package} has no {inside}; the example's photographs come with `pip install mmdata[example]`"
            )
        found.append(Photo(name=path.stem, path=path, package=package, licence=licence, caption=caption))
    return found


def variants(n: int, seed: int = 0) -> Iterator[Variant]:
    """`n` different pictures of web-like sizes (256 px and up, at most 2 MP; mostly JPEG of quality 75 to 95),
    each a crop of some photograph at its own place, shape and scale. The first n of a longer run are the same.

    No two have perceptual hashes within `APART` bits, so none is a near-duplicate of another unless a search
    looks wider than that. A function of `n`, `seed` and the versions of Pillow and the photographs' packages.
    Raises RuntimeError when the photographs do not yield so many.
    """
    sources = photos()
    hashes = np.empty((n, 2), dtype=np.uint64)
    attempt = 0
    for number in range(n):
        for _ in range(TRIES):
            random = generator(seed, "variant", attempt)
            attempt += 1
            photo = sources[int(random.integers(len(sources)))]
            picture = _pixels(photo.path)
            box = _box(picture.size, random)
            pixels = picture.resize(_size(box, random), Image.Resampling.BICUBIC, box=box)
            hashed = _hashes(pixels)
            if not number or int(np.bitwise_count(hashes[:number] ^ hashed).min()) > APART:
                break
        else:
            raise RuntimeError(f"only {number} of {n} pictures differ by more than {APART} bits")
        hashes[number] = hashed
        draw = float(random.random())
        small = pixels.width * pixels.height < PNG_PIXELS
        kind: Format = "webp" if draw < 0.08 else "png" if draw < 0.2 and small else "jpeg"
        quality = int(random.integers(75, 96))
        yield Variant(
            number=number,
            photo=photo.name,
            data=encode(pixels, kind, quality=quality, progressive=bool(random.random() < 0.2)),
            format=kind,
            width=pixels.width,
            height=pixels.height,
            caption=_caption(photo.caption, picture.size, box, pixels, random),
            phash=int(hashed[0]),
        )


def phash(picture: Image.Image, lowest: int = 0) -> int:
    """A 64-bit perceptual hash: the signs, against their median, of 8 x 8 low frequencies, `lowest` the first in
    either direction, of the DCT-II of the picture in 32 x 32 grey levels.

    After C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1, who
    leaves out the rows of the mean (`lowest` 1); most implementations keep them (0). It is written here apart
    from the build's, so that tests can hold one against the other.

    >>> noise = Image.effect_noise((64, 64), 80).resize((400, 300), Image.Resampling.BICUBIC)
    >>> (phash(noise) ^ phash(noise.resize((200, 160)))).bit_count() < 6
    True
    """
    return _hash(_grey(picture), lowest)


def _grey(picture: Image.Image) -> npt.NDArray[np.float64]:
    # The gap lets large pictures be averaged down most of the way, ten times as fast.
    small = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return np.asarray(small, dtype=np.float64)


def _hash(grey: npt.NDArray[np.float64], lowest: int) -> int:
    basis = _cosines()[lowest : lowest + 8]
    low = (basis @ grey @ basis.T).ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def _hashes(picture: Image.Image) -> npt.NDArray[np.uint64]:
    grey = _grey(picture)
    return np.array([_hash(grey, 0), _hash(grey, 1)], dtype=np.uint64)


@functools.cache
def _cosines() -> npt.NDArray[np.float64]:
    """float64[32, 32]: the DCT-II of length 32, one frequency per row, not normalised."""
    frequency, place = np.arange(32)[:, None], np.arange(32)[None, :]
    return np.asarray(np.cos(math.pi * frequency * (2 * place + 1) / 64), dtype=np.float64)


@functools.cache
def _root(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError(f"{module} is not installed; the example's photographs: `pip install mmdata[example]`")
    return Path(spec.submodule_search_locations[0])


@functools.lru_cache(maxsize=32)
def _pixels(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("L" if picture.mode == "L" else "RGB")


def _box(size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
    """A crop of a photograph: left, top, right, bottom."""
    width, height = size
    share = LEAST_CROP + (1 - LEAST_CROP) * float(random.random())
    aspect = math.exp(float(random.uniform(-0.65, 0.65)))  # width to height, from 1:1.9 to 1.9:1
    side = share * min(width, height)
    crop_width = min(width, round(side * max(1.0, aspect)))
    crop_height = min(height, round(side * max(1.0, 1 / aspect)))
    left = int(random.integers(width - crop_width + 1))
    top = int(random.integers(height - crop_height + 1))
    return left, top, left + crop_width, top + crop_height


def _size(box: tuple[int, int, int, int], random: np.random.Generator) -> tuple[int, int]:
    """Width and height to give a crop: its shape, the shortest side log-uniform between what is wanted at least and
    what the crop's own pixels allow."""
    width, height = box[2] - box[0], box[3] - box[1]
    shortest = min(width, height)
    most = max(LEAST_SIDE, min(MOST_SIDE, MOST_ENLARGED * shortest))
    side = LEAST_SIDE * math.exp(float(random.random()) * math.log(most / LEAST_SIDE))
    scale = min(side / shortest, math.sqrt(MOST_PIXELS / (width * height)))
    return max(LEAST_SIDE, round(width * scale)), max(LEAST_SIDE, round(height * scale))


def encode(pixels: Image.Image, kind: Format, *, quality: int = 85, progressive: bool = False) -> bytes:
    """An image file's bytes. `quality` and `progressive` do not concern PNG."""
    file = io.BytesIO()
    if kind == "jpeg":
        pixels.save(file, "JPEG", quality=quality, progressive=progressive)
    elif kind == "webp":
        pixels.save(file, "WEBP", quality=quality, method=2)
    else:
        pixels.save(file, "PNG", compress_level=6)
    return file.getvalue()


def _caption(
    subject: str,
    size: tuple[int, int],
    box: tuple[int, int, int, int],
    pixels: Image.Image,
    random: np.random.Generator,
) -> str:
    """Words that are true of the crop: its subject, how near, where in the photograph, how it looks."""
    share = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
    view = ("a macro shot", "a close-up", "a detail", "a view", "a wide view")[min(4, int(share * 5))]
    across = ("left", "", "right")[min(2, int(3 * (box[0] + box[2]) / (2 * size[0])))]
    down = ("top", "", "bottom")[min(2, int(3 * (box[1] + box[3]) / (2 * size[1])))]
    where = f"from the {' '.join(filter(None, (down, across)))}" if down or across else "from the centre"
    values = np.asarray(pixels.resize((16, 16), Image.Resampling.BOX).convert("RGB"), dtype=np.float64)
    red, _, blue = values.mean(axis=(0, 1))
    light = ("dark", "dim", "soft", "bright", "pale")[min(4, int(values.mean() / 51.2))]
    colour = "warm" if red > blue + 20 else "cold" if blue > red + 20 else "neutral"
    contrast = "sharp contrast" if values.std() > 55 else "gentle contrast" if values.std() < 25 else f"{light} light"
    words = (
        f"{view} of {subject}",
        f"{subject}, {where}",
        f"{subject} in {colour} colours",
        f"{view} of {subject}, {where}",
        f"{view} of {subject} in {light} light",
        f"{subject} with {contrast}, {where}",
        f"a {light} photo of {subject}, {colour} colours",
    )
    text = words[int(random.integers(len(words)))]
    return text[0].upper() + text[1:]
