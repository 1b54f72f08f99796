"""What a stream may be told: which dataset, in which order, packed how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mmdata.spec import InputPath, Model, runtime
from mmdata.stream.order import Shuffle
from mmdata.templates import TrainOn, Weights
from mmdata.views.augment import Augment

Packing = Literal["best_fit", "none"]


class StreamSpec(Model):
    """A stream over one dataset. Every field but the runtime ones is part of the stream's digest."""

    dataset: InputPath
    """Folder of a finished dataset."""
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
    max_length: int | None = Field(None, ge=2)
    """Tokens per pack, and of the longest sample; longer ones are left out and counted `overlong`."""
    packing: Packing = "best_fit"
    """How samples share a pack; `none` gives each its own."""
    seed: int = 0
    """Keys every permutation."""
    shuffle: Shuffle = "global"
    """`none` keeps the order of the dataset (packs still hold what fits together)."""
    block_samples: int = Field(10_000, ge=1)
    """Samples planned together; packs never reach over a block. Smaller blocks fill packs less well."""
    epochs: int | None = Field(1, ge=1)
    """Passes over the dataset; null never ends."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Images of more pixels are not decoded: their samples are masked."""
    decode: Literal["exact", "guarded", "fast"] = "exact"
    """`guarded` and `fast` decode a JPEG at 1/2, 1/4 or 1/8 where at least 2x or 1x of what the view resizes to is
    left: faster, and not the same pixels."""
    image_decoder: Literal["cpu", "dali"] = "cpu"
    """Who decodes and resizes the pictures of packs. `dali` is NVIDIA DALI (`pip install mmdata[dali]`), a pack at a
    time; it resizes in float32 and rounds once, so that some values differ by a level of 255."""
    image_device: Literal["cpu", "gpu"] = runtime("cpu")
    """Where `dali` works. The arrays of a pack come back to host memory."""
    materialized: Literal["exact", "lossy", "off"] = "exact"
    """What a `materialize` step stored is read in place of a medium where it gives exactly the same (`exact`), also
    where it comes near (`lossy`: JPEG, float16), or never (`off`)."""
    augment: Augment | None = None
    """Chance for training: crops, scale, mirroring and colour; none by default."""
    integrity: Literal["crc32c", "off"] = runtime("crc32c")
    """`crc32c` checks every byte and fact before it is yielded."""
