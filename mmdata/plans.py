"""Who reads what: packs, first integers only (`MediaPlan`, `Item`, `Pack`), then arrays (`Packed`).

All are frozen, as the values of `mmdata.types`, through which they are imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

    from mmdata.ops import Op, PixelOp
    from mmdata.types import Join, MediaKind


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


SpanKind = Literal["response", "instruction", "special", "box", "entity"]
"""What the tokens of a span are: an answer, what is asked of it, the template's own tokens (an answer's end among
them), coordinates, or the name of the thing they belong to."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens start <= i < stop of one text whose labels are trained, each with `weight` in the loss."""

    start: int
    stop: int
    weight: float = 1.0
    kind: SpanKind = "response"
    answer: bool = True
    """Whether it is part of an answer; else of what is asked, or of the template around it (`train_on: all`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPlan:
    """What a view makes of one medium, known from its facts alone: an array of `shape` (float32, unless the view
    was asked for uint8) by the operations `ops`, and `tokens` feature vectors of the model, which is the number of
    its placeholders in `input_ids`."""

    kind: MediaKind
    tokens: int
    shape: tuple[int, ...]
    ops: tuple[Op, ...]
    size: tuple[int, int] | None = None
    """Height and width of the picture before any operation."""
    grid: tuple[int, int, int] | None = None
    """(time, rows, columns): tiles for views that tile, patches (before any merging) for views that patchify."""
    frames: tuple[int, ...] = ()
    """Of a video: the frames to decode, in order; a frame may be asked for twice."""
    times: tuple[float, ...] = ()
    """Of a video: seconds at which each of `frames` is shown."""
    begins: float = 0.0
    """Of a video: when its first frame is shown, by the clock of `times`; a recording's clock may be hours old."""
    seconds: float | None = None
    """Of a video: how long it lasts."""
    before: tuple[PixelOp, ...] = ()
    """What is done to the picture before all that: `size` is what these leave of it. A sample that was too long has its
    pictures made smaller so."""


@dataclass(frozen=True, slots=True)
class Trim:
    """What is left of a sample that was too long: these of its parts, in order, the last of them (a text) cut after
    `cut` characters."""

    parts: tuple[int, ...]
    cut: int | None = None


class Cost(NamedTuple):
    """What there is to do for a sample or pack, in whole numbers: tokens, the sum of the squares of the samples'
    tokens, patches that the vision tower sees (rows of padding too), frames of log-mel."""

    tokens: int = 0
    squares: int = 0
    patches: int = 0
    mel_frames: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One sample of a pack: its place in the dataset, all its tokens (media included), its media's plans.

    `dataset` is the number of its dataset in the stream, `epoch` how often that dataset has been gone through before
    (which keys all chance). `media` are the plans of the media that are left after `trim`. `damaged` says why its text
    could not be read when it was planned: it is masked, whatever has become of it since."""

    position: int
    key: str
    tokens: int
    media: tuple[MediaPlan, ...] = ()
    dataset: int = 0
    epoch: int = 0
    trim: Trim | None = None
    damaged: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """The samples that share one row of a batch; made before any decode. `number` counts within the block.

    Of a `padded` pack every item is a row of its own, as long as the longest."""

    epoch: int
    block: int
    number: int
    items: tuple[Item, ...]
    cost: Cost = field(default_factory=Cost)
    padded: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(item.key for item in self.items)

    @property
    def tokens(self) -> int:
        return sum(item.tokens for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """Where one medium lies: `input_ids[start:start + length]` holds its `tokens` placeholders and whatever markers
    the family puts around and between them; media of a kind count in order of slots."""

    kind: MediaKind
    start: int
    length: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A pack as arrays. Segment i is one sample, `keys[i]`, and lies at cu_seqlens[i] <= t < cu_seqlens[i + 1]; of a
    sample with two answers there are two, one after the other (`answers`).

    `cu_seqlens[0]` is 0, `cu_seqlens[-1]` is L; the first label of every segment is -100, so no label crosses a
    boundary; the slots' tokens are the placeholders in `input_ids`, in order. `masked` names the samples that
    could not be read (or were removed) and why, `masked_segments` says which segments they are: they keep their place
    and planned shapes and train nothing. Datasets may have equal keys; segments tell them apart. A pack without keys
    is a dummy that keeps a rank in step. `media` holds the batch's arrays by name.
    """

    input_ids: np.ndarray
    """int32 [L]"""
    labels: np.ndarray
    """int64 [L], -100 where nothing is trained"""
    loss_weights: np.ndarray
    """float32 [L]"""
    position_ids: np.ndarray
    """int64 [L], from 0 in every segment; [4, L] for families with M-RoPE: this row, then time, height, width"""
    cu_seqlens: np.ndarray
    """int32 [S + 1]"""
    slots: tuple[Slot, ...] = ()
    media: Mapping[str, np.ndarray] = field(default_factory=dict)
    joins: Mapping[str, Join] = field(default_factory=dict)
    """How each of `media` was joined, and is joined further (default: `concat`); `row` has no leading axis yet."""
    token_classes: np.ndarray | None = None
    """int8 [L], what each trained token is (`mmdata.labels.token_classes`), 0 elsewhere"""
    tasks: tuple[str, ...] = ()
    """Of each sample, what it is counted under: its own `task`, or the name of its dataset"""
    sample_weights: tuple[float, ...] = ()
    """Of each sample, what all its tokens' weights are multiplied by"""
    places: tuple[tuple[int, int], ...] = ()
    """Of each segment, the number of its sample's dataset in the stream and the sample's position there"""
    answers: tuple[str, ...] = ()
    """Of each segment, `chosen` or `rejected` where it is one of a sample's two answers, which follow each other; ''
    for others"""
    fields: tuple[Mapping[str, Any], ...] = ()
    """Of each sample, the fields of its meta that the stream was told to carry (`StreamSpec.carry`)"""
    token_arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """int64 [L] by name of the batch's array: what kind of token each is, for families that ask."""
    type_ids: tuple[str, ...] | None = None
    """The names of `token_arrays` that the family's models cannot do without; None where nobody said."""
    keys: tuple[str, ...] = ()
    masked: tuple[tuple[str, str], ...] = ()
    masked_segments: tuple[int, ...] = ()
