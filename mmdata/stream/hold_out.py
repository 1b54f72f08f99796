"""A share of a dataset that a stream leaves out, for another to be measured on: by pictures, not by samples."""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt

from mmdata.shards.dataset import Dataset

Part = Literal["train", "held_out"]
OTHER_PART = {"train": "held_out", "held_out": "not_held_out"}
"""By the part that a stream yields, the reason of samples that it leaves out."""
DIGITS = 12
"""Hex digits of a digest that decide."""


def other_part(dataset: Dataset, positions: npt.NDArray[np.int64], share: float, part: Part) -> npt.NDArray[np.bool_]:
    """Which of the samples at positions belong to the other part than `part`: bool [N].

    The SHA-256 of a sample's first medium decides, or that of its key where it has none: all that is asked about a
    picture is on one side, however the dataset is ordered, grows or is sharded again, and in every dataset that has it.
    """
    if not share:
        return np.full(len(positions), part != "train")
    threshold = share * 16**DIGITS
    digests = dataset.digests_at(positions)
    names = {at: key for at, key in enumerate(dataset.keys_at(positions)) if digests[at] is None}
    held = [
        int((digest or hashlib.sha256(names[at].encode()).hexdigest())[:DIGITS], 16) < threshold
        for at, digest in enumerate(digests)
    ]
    return np.array(held, bool) ^ (part == "held_out")
