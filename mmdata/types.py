"""The values that travel through build and stream: samples and their parts, places, worlds, pixel operations.

All are frozen and keyword-only. Facts are integers (or seconds) known without decoding; `None` says that
nobody has looked yet, never that the value is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

MediaKind = Literal["image", "video", "audio"]
Verified = Literal["none", "header", "full"]
State = Literal["ok", "filtered", "duplicate", "failed_transient", "failed_permanent", "opted_out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A piece of text. `role` is `caption`, `system`, `user`, `assistant`, `tool` or `document`;
    `train` says whether its tokens may enter the loss."""

    text: str
    role: str = "caption"
    train: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One image, video or audio: its encoded bytes (`data`), or where they are to be had (`uri`), and facts.

    `height` and `width` are those of the upright picture (EXIF orientation applied). `verified` says how
    the facts were obtained: `header` read, or the whole file decoded (`full`). `sha256` is the hex digest
    of the bytes as they came from the source, whatever was done to them since.
    """

    kind: MediaKind
    data: bytes | None = field(default=None, repr=False)
    uri: str | None = None
    format: str | None = None
    height: int | None = None
    width: int | None = None
    mode: str | None = None
    frames: int | None = None
    fps: float | None = None
    seconds: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    sha256: str | None = None
    verified: Verified = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded(Media):
    """An image and its pixels: uint8 [height, width, 3], RGB, upright."""

    pixels: np.ndarray = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a record came from: the file or table it was listed in and its row there."""

    uri: str
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Ordered parts under one identity. The order of parts is the order of tokens, so that captions,
    question-answer pairs, interleaved pages, dialogue and transcripts are one type.

    `key` is the identity (randomness, tombstones and quarantine hang on it): letters, digits, `-` and `_`.
    `meta` holds JSON values only.
    """

    key: str
    parts: tuple[Text | Media, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin

    @property
    def media(self) -> tuple[Media, ...]:
        return tuple(part for part in self.parts if isinstance(part, Media))

    @property
    def texts(self) -> tuple[Text, ...]:
        return tuple(part for part in self.parts if isinstance(part, Text))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Why a record does not become a sample: `reason` is a slug, `detail` what was seen.

    `state` is the ledger state it ends in; `of` is the key of the kept sample that a duplicate repeats.
    """

    reason: str
    detail: str = ""
    state: State = "filtered"
    of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """A location: row `row` of shard `shard` of `dataset`. A re-shard moves refs, never keys."""

    dataset: str
    shard: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who is reading: rank of ranks, worker of workers. Passed down, never read from the environment
    below an entry point."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1


# Pixel operations: the closed list in which every view's plan ends. Integers only; CPU and GPU decoders
# interpret the same list. Boxes are in the coordinates of the picture as the previous operation left it.


@dataclass(frozen=True, slots=True)
class Crop:
    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class Resize:
    height: int
    width: int
    filter: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"


@dataclass(frozen=True, slots=True)
class Pad:
    top: int
    left: int
    bottom: int
    right: int
    value: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Flip:
    pass


@dataclass(frozen=True, slots=True)
class Tile:
    """Cut into `rows` by `columns` equal tiles, row-major: [3, H, W] -> [rows*columns, 3, H/rows, W/columns]."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Patchify:
    """Cut into square patches of `size` pixels, raster order."""

    size: int


@dataclass(frozen=True, slots=True)
class Normalise:
    """uint8 -> float32 by `(x - mean*255) / (std*255)` per channel, fused as Hugging Face's fast processors do."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


PixelOp = Crop | Resize | Pad | Flip | Tile | Patchify | Normalise


# Packs: first integers only (`MediaPlan`, `Item`, `Pack`), then arrays (`Packed`).


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start <= i < stop of one text whose labels are trained, each with `weight` in the loss."""

    start: int
    stop: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPlan:
    """What a view makes of one medium, known from its facts alone: `tokens` placeholders in `input_ids`,
    a float32 array of `shape`, by the pixel operations `ops`."""

    kind: MediaKind
    tokens: int
    shape: tuple[int, ...]
    ops: tuple[PixelOp, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One sample of a pack: its place in the dataset, all its tokens (media included), its media's plans."""

    position: int
    key: str
    tokens: int
    media: tuple[MediaPlan, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The samples that share one row of a batch; made before any decode. `number` counts within the block."""

    epoch: int
    block: int
    number: int
    items: tuple[Item, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.items)

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The placeholders of one medium: `input_ids[start:start + tokens]`; media of a kind count in order of slots."""

    kind: MediaKind
    start: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A pack as arrays. Segment i is one sample, `keys[i]`, and lies at cu_seqlens[i] <= t < cu_seqlens[i + 1].

    `cu_seqlens[0]` is 0, `cu_seqlens[-1]` is L; the first label of every segment is -100, so no label crosses a
    boundary; the slots' tokens are the placeholders in `input_ids`, in order. `masked` names the samples that
    could not be read and why: they keep their place and planned shapes and train nothing. A pack without keys
    is a dummy that keeps a rank in step. `media` holds the batch's arrays by name, float32.
    """

    input_ids: np.ndarray
    """int32 [L]"""
    labels: np.ndarray
    """int64 [L], -100 where nothing is trained"""
    loss_weights: np.ndarray
    """float32 [L]"""
    position_ids: np.ndarray
    """int64 [L], from 0 in every segment"""
    cu_seqlens: np.ndarray
    """int32 [S + 1]"""
    slots: tuple[Slot, ...] = ()
    media: Mapping[str, np.ndarray] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    masked: tuple[tuple[str, str], ...] = ()
