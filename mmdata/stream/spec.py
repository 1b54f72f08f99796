"""What a stream may be told: which dataset, in which order, packed how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmdata.spec import InputPath, Model, runtime
from mmdata.stream.order import Shuffle

Packing = Literal["best_fit", "none"]


class StreamSpec(Model):
    """A stream over one dataset. Every field but the runtime ones is part of the stream's digest."""

    dataset: InputPath
    """Folder of a finished dataset."""
    template: str = "caption"
    """How samples become tokens."""
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
    integrity: Literal["crc32c", "off"] = runtime("crc32c")
    """`crc32c` checks every byte and fact before it is yielded."""
