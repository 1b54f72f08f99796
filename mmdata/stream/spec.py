"""What a stream may be told: which dataset, in which order, packed how."""

from __future__ import annotations

import functools
from typing import Any, Literal, Self

from pydantic import Field, ValidatorFunctionWrapHandler, field_validator, model_validator

from mmdata.pack import OverlongPolicy
from mmdata.spec import InputPath, Model, OutputPath, runtime
from mmdata.stream.cost import Costs
from mmdata.stream.hold_out import Part
from mmdata.stream.mixture import DatasetSpec, Stage, WeighBy, problem
from mmdata.stream.order import Shuffle
from mmdata.stream.staged import ViewStage, out_of_order
from mmdata.templates import TrainOn, Weights
from mmdata.views.augment import Augment

Packing = Literal[
    "best_fit", "thorough", "best_fit_decreasing", "first_fit_decreasing", "first_fit", "next_fit", "none"
]


class Capacity(Model):
    """What a pack holds at most besides its tokens; null is no limit."""

    patches: int | None = Field(None, ge=1)
    """Patches that the vision tower sees, rows of padding too."""
    mel_frames: int | None = Field(None, ge=1)
    """Frames of log-mel that the audio tower sees."""
    media: int | None = Field(None, ge=1)
    """Pictures, videos and sounds."""


class Failures(Model):
    """How many samples of a dataset may fail to be read before the run stops."""

    consecutive: int = Field(100, ge=1)
    """So many in a row stop it."""
    rate: float = Field(0.1, ge=0, le=1)
    """So does a larger share than this of all that were read,"""
    probation: int = Field(1000, ge=1)
    """once so many were."""


@functools.lru_cache(64)
def _alone(path: str) -> tuple[DatasetSpec, ...]:
    return (DatasetSpec(path=path),)


class StreamSpec(Model):
    """A stream over one dataset or several. Every field but the runtime ones is part of the stream's digest."""

    dataset: InputPath = ""
    """Folder of a finished dataset,"""
    datasets: tuple[DatasetSpec, ...] = ()
    """or several: pooled, or mixed by weights."""
    weigh_by: WeighBy = "tokens"
    """What weights are shares of."""
    schedule: tuple[Stage, ...] = ()
    """How weights change while the stream goes on, in ascending order."""
    views: tuple[ViewStage, ...] = ()
    """How views change while the stream goes on (a curriculum of resolutions, say), in ascending order."""
    template: str = "caption"
    """How samples become tokens: `caption`, `document`, `basic`, `system`, `multi_image`, `cot`, `chatml`, `vicuna`,
    `llava_v1`, or `chat`, the tokenizer's own."""
    template_options: dict[str, Any] = Field(default_factory=dict)
    """What the tokenizer's own template is told besides: `enable_thinking`, `date_string`, `tools`, `chat_template`."""
    system: str | None = None
    """System prompt of samples that have none: a text, or the name of a ready one (`general`, `ocr`)."""
    train_on: TrainOn = "assistant"
    """Which messages enter the loss: every answer, the last one of each sample, or all that is said."""
    token_weights: Weights = Weights()
    """What a token weighs in the loss, by its class."""
    weight_field: str | None = None
    """Field of samples' meta by which all their tokens' weights are multiplied; a sample without it weighs 1."""
    task_field: str = runtime("task")
    """Field of samples' meta that says what task they are of; for others that is the name of their dataset."""
    carry: tuple[str, ...] = runtime(())
    """Fields of samples' meta that batches carry as `fields`, one mapping for each segment, for losses that need more
    than tokens (boxes, polygons, events); as augmentation left them. Beside them `size`, [height, width] of a sample's
    only picture, and `seconds` of its only sound."""
    max_length: int | None = Field(None, ge=2)
    """Tokens of the longest sample, and of a pack unless `pack_tokens` says otherwise."""
    overlong: OverlongPolicy = "drop"
    """What becomes of longer samples. `drop` leaves them out; `truncate_text` drops whole exchanges, then the end of an
    answer, never half a medium; `shrink_media` plans their media smaller; `error` stops. All are counted."""
    truncate_keep: Literal["first", "last"] = "first"
    """Which exchanges `truncate_text` keeps."""
    pairs: bool = False
    """Of samples with a `chosen` and a `rejected` answer, whether both are yielded, as two segments that follow each
    other in one pack, each with the whole prompt and only its answer trained; else there is the chosen answer alone."""
    packing: Packing = "best_fit"
    """How samples share a pack. `best_fit` has the fewest packs of several rules and then spreads media evenly over
    them; `thorough` searches longer; the others are single rules by their names, `next_fit` and `first_fit` in the
    order of the stream. `none`: no sharing;
    every sample is a row of its own, in batches of `batch_tokens` or `batch_rows` where given."""
    pack_tokens: int | None = Field(None, ge=2)
    """Tokens per pack; more than `max_length` where a pack is to hold several of the longest samples."""
    capacity: Capacity = Capacity()
    """What else a pack holds at most."""
    packing_window: int | None = Field(None, ge=1)
    """Samples packed together; null: a whole block. Smaller windows keep the order of the stream better and fill packs
    less well."""
    pad_multiple: int = Field(1, ge=1)
    """Rows are padded to a multiple of so many tokens: a pack holds no more than fits so, and the rows of `none` count
    as padded."""
    batch_tokens: int | None = Field(None, ge=2)
    """With `packing: none`: tokens per batch of rows of like length, padding included."""
    batch_rows: int | None = Field(None, ge=1)
    """With `packing: none`: rows per batch."""
    costs: Costs = Costs()
    """What tokens, patches and frames cost, by which packs are spread over steps and dealt to ranks."""
    seed: int = 0
    """Keys every permutation."""
    shuffle: Shuffle = "global"
    """`none` keeps the order of the dataset (packs still hold what fits together)."""
    block_samples: int = Field(10_000, ge=1)
    """Samples planned together; packs never reach over a block. Smaller blocks fill packs less well."""
    epochs: int | None = Field(1, ge=1)
    """Passes over the dataset; null never ends. A weighted mixture goes on until each dataset has had its own."""
    hold_out: float = Field(0.0, ge=0, lt=1)
    """Share of the samples that is kept out of the stream, to measure what it taught; all samples of a picture are on
    one side."""
    part: Part = "train"
    """`held_out` yields what `hold_out` keeps out, and nothing else."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Images of more pixels are not decoded: their samples are masked."""
    decode: Literal["exact", "guarded", "fast"] = "exact"
    """`guarded` and `fast` decode a JPEG at 1/2, 1/4 or 1/8 where at least 2x or 1x of what the view resizes to is
    left: faster, and not the same pixels."""
    image_decoder: Literal["cpu", "dali", "auto"] = "cpu"
    """Who decodes and resizes the pictures of packs. `dali` is NVIDIA DALI (`pip install mmdata[dali]`), a pack at a
    time; it resizes in float32 and rounds once, so that some values differ by a level of 255. `auto` is `dali` on the
    GPU where there are both and `decode` is `exact`, else `cpu`; which it was is part of a stream's states, and a
    state of the other is refused."""
    image_device: Literal["cpu", "gpu"] = runtime("cpu")
    """Where `dali` works. The arrays of a pack come back to host memory."""
    materialized: Literal["exact", "lossy", "off"] = "exact"
    """What a `materialize` step stored is read in place of a medium where it gives exactly the same (`exact`), also
    where it comes near (`lossy`: JPEG, float16), or never (`off`)."""
    augment: Augment | None = None
    """Chance for training: crops, scale, mirroring and colour; none by default."""
    lengths: OutputPath | None = runtime(None)
    """Folder for the counts of texts' tokens; null: beside the dataset, or where that cannot be written in
    `$XDG_CACHE_HOME/mmdata` (`~/.cache/mmdata`)."""
    cache: OutputPath | None = runtime(None)
    """Folder on a local disk for files of remote datasets, which processes and jobs may share; null is
    `$XDG_CACHE_HOME/mmdata/shards` (`~/.cache/mmdata/shards`)."""
    cache_bytes: int = runtime(32 << 30, ge=1)
    """What all files in it may take together; the least recently used go first."""
    integrity: Literal["crc32c", "off"] = runtime("crc32c")
    """`crc32c` checks every byte and fact before it is yielded."""
    failures: Failures = runtime(Failures())
    """When samples that cannot be read stop the run; counted by each process, dataset by dataset."""
    quarantine: bool = runtime(False)
    """Whether the bytes of samples that cannot be read are copied to `quarantine/` in the run's folder."""

    @field_validator("dataset", mode="wrap")
    @classmethod
    def _none_is_no_folder(cls, value: str, located: ValidatorFunctionWrapHandler) -> str:
        """A run's spec that is read again says "" where it has several: that is not the folder it lies in."""
        return value if value == "" else str(located(value))

    @model_validator(mode="after")
    def _mixture(self) -> Self:
        if bool(self.dataset) == bool(self.datasets):
            raise ValueError("dataset: name one folder here, or several under `datasets`")
        if wrong := problem(self.datasets, self.schedule) or out_of_order(self.views):
            raise ValueError(wrong)
        if self.weighted and (self.epochs or 1) > 1:
            raise ValueError(f"epochs: {self.epochs} says nothing of datasets with weights; give each its own `epochs`")
        if self.pairs and self.overlong in ("truncate_text", "shrink_media"):
            raise ValueError(
                f"overlong: {self.overlong}: both answers of a pair have to see the same; set drop or error"
            )
        if self.part == "held_out" and not self.hold_out:
            raise ValueError(
                "part: held_out: nothing is held out; set hold_out, as the stream that is trained on has it"
            )
        return self

    @property
    def sources(self) -> tuple[DatasetSpec, ...]:
        """Its datasets, also where it is one."""
        return self.datasets or _alone(self.dataset)

    @property
    def weighted(self) -> bool:
        """Whether samples are drawn by weights; else datasets are pooled."""
        return any(each.weight is not None for each in self.datasets)

    @property
    def row_tokens(self) -> int | None:
        """Tokens that a pack, or a row of a batch, holds at most: a whole number of `pad_multiple`."""
        if self.packing == "none":
            limit = self.batch_tokens
        else:
            limit = self.pack_tokens or self.max_length
        return None if limit is None else max(limit // self.pad_multiple, 1) * self.pad_multiple

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sample that fits."""
        limits = [limit for limit in (self.max_length, self.row_tokens) if limit is not None]
        return min(limits, default=None)
