"""What packs cost: counts of tokens, patches and frames from plans, weighted by given or fitted coefficients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mmdata.errors import SpecError
from mmdata.families._family import View
from mmdata.ops import Spectrogram
from mmdata.spec import Model
from mmdata.types import Cost, Fork, MediaPlan, Op, Patchify, Wave
from mmdata.views.mel import HOP_LENGTH

KINDS = ("total", "vision", "audio")
"""What the dealing of packs balances."""


class Costs(Model):
    """What a unit of work costs, in any one unit (of a fit: seconds): a*tokens + b*sum(len^2) + c*patches + d*frames.

    The defaults are in units of one token: the arithmetic of a language model of 7 billion parameters and width 4,096
    (causal attention adds 1/49,152 per pair of tokens), and of towers of 0.3 billion, which sees a patch or two
    frames of log-mel at a time. Fit yours with `calibrate`.
    """

    tokens: float = Field(1.0, ge=0)
    """Of a token in the language model, attention aside."""
    squares: float = Field(2e-5, ge=0)
    """Of the square of a sample's tokens: attention within the sample."""
    patches: float = Field(0.05, ge=0)
    """Of a patch in the vision tower, padding included."""
    mel_frames: float = Field(0.02, ge=0)
    """Of a frame of log-mel in the audio tower."""


def patches(view: View, plan: MediaPlan) -> int:
    """Patches that the vision tower sees of a medium: rows of patches, those of padding too, or what its pictures are
    cut into by the model."""
    if plan.kind == "audio":
        return 0
    if _patchified(plan.ops):
        return math.prod(plan.shape[:-1])
    side = int(getattr(view, "patch", 14))
    *pictures, _, height, width = plan.shape
    return math.prod(pictures) * (height // side) * (width // side)


def mel_frames(plan: MediaPlan) -> int:
    """Frames of log-mel that the audio tower sees of a medium, silence that fills it up too."""
    if plan.kind != "audio":
        return 0
    if isinstance(plan.ops[0], Spectrogram):
        return math.prod(plan.shape[:-1])
    return plan.shape[-1] // HOP_LENGTH if isinstance(plan.ops[0], Wave) else plan.shape[-1]


def loads(costs: npt.ArrayLike | Sequence[Cost], weights: Costs) -> npt.NDArray[np.float64]:
    """Weighted costs float64 [n, 3], of KINDS, for counts (`Cost`) [n, 4]: all that a pack costs, and what of it the
    vision and audio towers do. Computed value by value, so that every machine gets the same.

    >>> loads([Cost(tokens=100, squares=10_000, patches=576)], Costs(squares=0.0001, patches=0.5)).tolist()
    [[389.0, 288.0, 0.0]]
    """
    counts = np.asarray(costs, np.float64).reshape(-1, 4)
    vision = counts[:, 2] * weights.patches
    audio = counts[:, 3] * weights.mel_frames
    language = counts[:, 0] * weights.tokens + counts[:, 1] * weights.squares
    return np.stack([language + vision + audio, vision, audio], axis=1)


def calibrate(costs: npt.ArrayLike | Sequence[Cost], seconds: npt.ArrayLike) -> Costs:
    """The coefficients, 0 or more, with which `costs` [n, 4] explain measured `seconds` [n] of micro-steps best, by
    least squares; what a micro-step takes however little it does is fitted too and left out, as it is all ranks'.

    Exact: of the least-squares fits of every choice of columns, the best that has no negative coefficient. Raises
    SpecError for fewer measurements than there are coefficients, or where nothing explains them.

    >>> found = calibrate([(100, 10_000, 0, 0), (200, 30_000, 50, 0), (300, 20_000, 10, 0), (50, 900, 70, 0),
    ...                    (120, 5_000, 5, 0)], [1.1, 2.8, 3.3, 1.209, 1.3])
    >>> round(found.tokens, 4), round(found.squares, 7), round(found.patches, 4), found.mel_frames
    (0.01, 1e-05, 0.01, 0.0)
    """
    table = np.asarray(costs, np.float64).reshape(-1, 4)
    measured = np.asarray(seconds, np.float64)
    if len(table) != len(measured) or not (np.isfinite(measured).all() and (measured >= 0).all()):
        raise SpecError(f"calibrate: {len(table)} costs and {len(measured)} times; give one time, 0 or more, to each")
    used = np.flatnonzero(table.any(0)).tolist()
    if len(table) <= len(used):
        raise SpecError(f"calibrate: {len(table)} micro-steps tell nothing of {len(used)} coefficients; time more")
    scale = np.maximum(table.max(0), 1)
    columns = np.concatenate([table / scale, np.ones((len(table), 1))], axis=1)
    best, least = None, np.inf
    for size in range(1, len(used) + 1):
        for chosen in combinations(used, size):
            for constant in ((), (4,)):
                some = [*chosen, *constant]
                fit = np.linalg.lstsq(columns[:, some], measured, rcond=None)[0]
                error = float(((columns[:, some] @ fit - measured) ** 2).sum())
                if (fit >= 0).all() and error < least * (1 - 1e-9):
                    best, least = dict(zip(some, fit.tolist(), strict=True)), error
    if best is None:
        raise SpecError("calibrate: no coefficients of 0 or more explain the times; measure packs of different kinds")
    a, b, c, d = (best.get(i, 0.0) / scale[i] for i in range(4))
    return Costs(tokens=a, squares=b, patches=c, mel_frames=d)


def _patchified(ops: Sequence[Op]) -> bool:
    return any(
        isinstance(op, Patchify) or (isinstance(op, Fork) and any(_patchified(branch) for branch in op.branches))
        for op in ops
    )
