"""What Idefics3 and SmolVLM share: numbered tiles in the text, a row of all images of all samples in the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.families._family import Layout
from mmdata.families._settings import Checkpoint, pixels, said, side
from mmdata.types import MediaPlan

PLACEHOLDER = "<image>"
FAKE, GLOBAL = "<fake_token_around_image>", "<global-img>"


def tiles(plan: MediaPlan) -> Layout:
    """Each tile with its row and column, a line for each row, the whole picture last."""
    assert plan.grid is not None, plan
    _, rows, columns = plan.grid
    each = plan.tokens // plan.shape[0]
    if not rows:
        return FAKE + GLOBAL, each, FAKE
    pieces: list[str | int] = []
    before = ""  # neighbouring pieces are one text, so that they are tokenised as one
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            pieces += [f"{before}{FAKE}<row_{row}_col_{column}>", each]
            before = ""
        before = "\n"
    return (*pieces, f"\n\n{FAKE}{GLOBAL}", each, FAKE)


def mask(plan: MediaPlan) -> dict[str, np.ndarray]:
    """`pixel_attention_mask` int64 [pictures, S, S], all ones: tiles have no padding."""
    pictures, _, height, width = plan.shape
    return {"pixel_attention_mask": np.ones((pictures, height, width), np.int64)}


def read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Parameters of `SplitImage`."""
    found = said(checkpoint.media["image"], max_image_size=364, size={"longest_edge": 1456})
    size = side(found.get("max_image_size"), "longest_edge")
    patch, pool = checkpoint.vision.get("patch_size"), checkpoint.model.get("scale_factor")
    tokens = checkpoint.processor.get("image_seq_len")
    if tokens and size and not patch:  # of a processor alone: as many to a tile, however they come about
        patch, pool = size // math.isqrt(tokens), 1
    return {
        **pixels(found),
        "size": size,
        "longest_edge": side(found.get("size"), "longest_edge"),
        "splitting": found.get("do_image_splitting"),
        "patch": patch,
        "pool": pool,
    }
