"""Operations on pixels and sound: the closed list in which every view's plan ends.

Integers only; CPU and GPU decoders interpret the same list. Boxes are in the coordinates of the picture as the previous
operation left it. A picture is [3, H, W]; a video [T, 3, H, W], of which every frame is treated alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Filter = Literal["bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True, slots=True)
class Crop:
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Antialiased. uint8 is rounded and clamped after each pass, width first; float32 is left as it comes."""

    height: int
    width: int
    filter: Filter = "bicubic"


@dataclass(frozen=True, slots=True)
class Pad:
    top: int
    left: int
    bottom: int
    right: int
    value: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirror left and right."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Factors in thousandths, as torchvision's `adjust_*` apply them, in this order: 1000 leaves a picture as it is.
    `hue` turns the colour wheel by thousandths of a turn, -500 to 500; 0 leaves it."""

    brightness: int = 1000
    contrast: int = 1000
    saturation: int = 1000
    hue: int = 0


@dataclass(frozen=True, slots=True)
class Tile:
    """Cut into `rows` by `columns` equal tiles, row-major: [3, H, W] -> [rows*columns, 3, H/rows, W/columns]."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Run each list of operations over the same picture and put the results after each other:
    [3, H, W] -> [N, 3, h, w], where a branch that leaves [3, h, w] adds one and one that tiles adds its tiles."""

    branches: tuple[tuple[PixelOp, ...], ...]


@dataclass(frozen=True, slots=True)
class Normalise:
    """uint8 -> float32 by `(x - mean*255) / (std*255)` per channel, fused as Hugging Face's fast processors do."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Standardise:
    """uint8 -> float32 by the picture's own mean and deviation over all its values: `(x - mean) / max(std, 1/sqrt(N))`;
    `unbiased` divides the variance by N - 1 (Pix2Struct's torchvision backend), else by N."""

    unbiased: bool = True


@dataclass(frozen=True, slots=True)
class Patchify:
    """Cut into square patches of `size` pixels, each one row: [T, 3, H, W] -> [T/temporal * H/size * W/size, D].

    Patches come in raster order, or with `merge` 2 in raster order of 2 x 2 blocks, row-major within a block. A row
    holds (channel, frame, y, x), or with `channels_last` (frame, y, x, channel). A picture counts as one frame; a
    number of frames that `temporal` does not divide is filled up with the last frame. `grid_ids` puts the patch's row
    and column, from 1, before its pixels; `pad_to` adds rows of zeros up to that many.
    """

    size: int
    merge: int = 1
    temporal: int = 1
    channels_last: bool = False
    grid_ids: bool = False
    pad_to: int | None = None


@dataclass(frozen=True, slots=True)
class KeepRows:
    """Of rows of patches keep a random `count`, in their order (NaViT's token dropping); `key` stands for the draw, so
    that a plan stays small (`mmdata.views.patches.keep_rows` says which they are)."""

    count: int
    key: int


PixelOp = Crop | Resize | Pad | Flip | Colour | Tile | Fork | Normalise | Standardise | Patchify | KeepRows


@dataclass(frozen=True, slots=True)
class LogMel:
    """Samples start <= i < stop of a mono waveform at 16 kHz as Whisper's log-mel: float32 [n_mels, frames].

    With `padded` (samples) the clip is cut or filled up with silence to that length first; of the result, the first
    `frames` frames are kept where that is given."""

    start: int
    stop: int
    n_mels: int = 80
    padded: int | None = 480_000
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class Wave:
    """A mono waveform of so many samples at 16 kHz, of which the first `keep` are taken as they are."""

    samples: int
    keep: int


@dataclass(frozen=True, slots=True)
class Spectrogram:
    """Samples start <= i < stop of a mono waveform of `samples`, at the view's rate, as a spectrogram of the view's
    size: float32 [frames, bins]. Its first `positions`, of those that the encoder makes of it, are of this sound."""

    samples: int
    start: int
    stop: int
    positions: int


Op = PixelOp | LogMel | Wave | Spectrogram
