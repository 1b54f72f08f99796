"""A packet table read in the order of showing: when each frame is shown, and which frames are key frames."""

from __future__ import annotations

import numpy as np

from mmdata.types import Packets


def shown(packets: Packets) -> np.ndarray:
    """int64 [T]: for each frame in presentation order the packet that carries it; hidden packets carry none.

    >>> packets = Packets(time_base=(1, 10), pts=np.array([0, 4, 2]), flags=np.array([1, 0, 0], np.uint8))
    >>> shown(packets).tolist(), seconds(packets).tolist(), key_frames(packets)
    ([0, 2, 1], [0.0, 0.2, 0.4], (0,))
    """
    visible = np.flatnonzero((packets.flags & Packets.HIDDEN) == 0)
    return visible[np.argsort(packets.pts[visible], kind="stable")]


def seconds(packets: Packets) -> np.ndarray:
    """float64 [T]: when each frame is shown, in presentation order; true times, whatever the average rate says."""
    above, below = packets.time_base
    visible = packets.pts[(packets.flags & Packets.HIDDEN) == 0]
    return np.sort(visible) * above / below


def key_frames(packets: Packets) -> tuple[int, ...]:
    """The indices, in presentation order, of the frames at which decoding can start (I-frames)."""
    return tuple(np.flatnonzero(packets.flags[shown(packets)] & Packets.KEY).tolist())
