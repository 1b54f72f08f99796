"""Draws: which sample of which dataset stands where in a stream, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draws:
    """N samples in the order of the stream."""

    dataset: npt.NDArray[np.int16]
    """int16 [N]: number of the dataset."""
    position: npt.NDArray[np.int64]
    """int64 [N]: position in it."""
    epoch: npt.NDArray[np.int32]
    """int32 [N]: how often the dataset has been gone through before."""

    def __len__(self) -> int:
        return len(self.position)

    def take(self, numbers: npt.NDArray[np.int64]) -> Draws:
        """Some of them, in this order."""
        return Draws(dataset=self.dataset[numbers], position=self.position[numbers], epoch=self.epoch[numbers])
