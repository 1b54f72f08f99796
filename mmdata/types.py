"""The values that travel through build and stream: samples and their parts, places, worlds, plans (of `mmdata.ops`).

All are frozen and keyword-only. Facts are integers (or seconds) known without decoding; `None` says that
nobody has looked yet, never that the value is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import numpy as np

    from mmdata.ops import Colour as Colour
    from mmdata.ops import Crop as Crop
    from mmdata.ops import Filter as Filter
    from mmdata.ops import Flip as Flip
    from mmdata.ops import Fork as Fork
    from mmdata.ops import KeepRows as KeepRows
    from mmdata.ops import LogMel as LogMel
    from mmdata.ops import Normalise as Normalise
    from mmdata.ops import Op as Op
    from mmdata.ops import Pad as Pad
    from mmdata.ops import Patchify as Patchify
    from mmdata.ops import PixelOp as PixelOp
    from mmdata.ops import Resize as Resize
    from mmdata.ops import Standardise as Standardise
    from mmdata.ops import Tile as Tile
    from mmdata.ops import Wave as Wave
    from mmdata.plans import Cost as Cost
    from mmdata.plans import Item as Item
    from mmdata.plans import MediaPlan as MediaPlan
    from mmdata.plans import Pack as Pack
    from mmdata.plans import Packed as Packed
    from mmdata.plans import Ref as Ref
    from mmdata.plans import Slot as Slot
    from mmdata.plans import Span as Span
    from mmdata.plans import SpanKind as SpanKind
    from mmdata.plans import Trim as Trim
    from mmdata.plans import World as World

MediaKind = Literal["image", "video", "audio"]
Verified = Literal["none", "header", "full"]
Join = Literal["stack", "concat", "pad", "row"]
"""How arrays of several media become one of the batch: stacked (a new axis 0), concatenated (along axis 0), stacked
after filling every axis with zeros up to the largest, or concatenated and put under a leading axis of one."""
State = Literal["ok", "filtered", "duplicate", "failed_transient", "failed_permanent", "opted_out"]


def __getattr__(name: str) -> Any:
    """Operations and packs are loaded by who asks for one: a build or an index has none."""
    if name[:1].isupper():
        from mmdata import ops, plans

        return getattr(plans if hasattr(plans, name) else ops, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A piece of text. `role` is `caption`, `system`, `user`, `assistant`, `tool` or `document`, or `chosen` and
    `rejected` for two answers to what comes before them; `train` says whether its tokens may enter the loss."""

    text: str
    role: str = "caption"
    train: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Packets:
    """What a demuxer says of a video stream without decoding it, one entry per packet in the order of decoding.

    Frame i of the video (0-based, as everywhere here) is the packet with the i-th smallest `pts` among those that are
    shown. `pts * time_base[0] / time_base[1]` are seconds.
    """

    time_base: tuple[int, int]
    pts: np.ndarray
    """int64 [P]"""
    flags: np.ndarray
    """uint8 [P], a sum of `KEY` (decoding can start here), `DISPOSABLE` (no other packet needs it) and
    `HIDDEN` (decoded, never shown)."""

    KEY: ClassVar[int] = 1
    DISPOSABLE: ClassVar[int] = 2
    HIDDEN: ClassVar[int] = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where bytes lie in a shard, and their CRC-32C, where it is known.

    Of media that a source found inside a file, `shard` is that file (a path or URL); else it is one of the dataset's.
    """

    offset: int
    size: int
    crc32c: int | None
    shard: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What a view once made of a medium, kept in the shard beside it (`mmdata.views.stored`).

    `digest` is that of all that decides it, `name` 8 hex digits of the view and the format alone, which members of a
    shard are called by. `format` is `float32` (the view's output), `uint8` (its pixels before they are normalised and
    cut into patches), or one of the lossy `float16` and `jpeg<quality>`. With `alone` a build does not keep the
    medium's own bytes.
    """

    digest: str
    name: str
    format: str
    alone: bool = False
    data: bytes | None = field(default=None, repr=False, compare=False)
    place: Place | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Seconds start <= t < stop of a video or of audio; without `stop` the rest of it. Of audio `channel`, from 0, is
    the only one that is meant; where `stop` is `claimed` to be the end, a sound that goes on for no more than rounding
    stays as it is."""

    start: float
    stop: float | None = None
    channel: int | None = None
    claimed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page of a document, from 0, as a picture of `dpi` pixels per inch."""

    number: int
    dpi: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """One image, video or audio: its encoded bytes (`data`), or where they are to be had (`uri`), and facts.

    `height` and `width` are those of the upright picture (EXIF orientation applied). `verified` says how
    the facts were obtained: `header` read, or the whole file decoded (`full`). `sha256` is the hex digest
    of the bytes as they came from the source, whatever was done to them since. Of a video, `frames` counts
    the pictures shown, `fps` is their average rate, `seconds` their duration, and `packets` says where decoding can
    start, and `marks` names frames that were found in its content (`scenes`: the first of each scene but the first;
    `keys`; `motion`); of audio, `samples` counts those of one channel at `sample_rate`.
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
    samples: int | None = None
    packets: Packets | None = field(default=None, repr=False, compare=False)
    marks: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False, hash=False)
    sha256: str | None = None
    verified: Verified = "none"
    role: str | None = None
    """Who sends it, in a conversation; None: as the text beside it says."""
    place: Place | None = field(default=None, repr=False, compare=False)
    """Of a medium of a dataset: where its bytes lie; None where the dataset did not keep them."""
    made: tuple[Stored, ...] = field(default=(), repr=False)
    """What views have made of it."""
    excerpt: Clip | Page | None = None
    """Of a medium of a source: what of the fetched bytes is meant. A build takes it out before its first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmented(Media):
    """A picture or video that is changed by `before` as soon as it is decoded: `height` and `width` are those that a
    view sees, `stored` (height, width) those of the bytes."""

    before: tuple[PixelOp, ...]
    stored: tuple[int, int]


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
    `meta` holds JSON values only. `boxed` is the (height, width) on which the column `boxes` was drawn, if a source
    tells, until a step has looked whether that is the picture's.
    """

    key: str
    parts: tuple[Text | Media, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin
    boxed: tuple[int, int] | None = None

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
