"""Which frames of a video to decode: one door, `sample`, to every rule by name.

A rule is a function of counts, rates and recorded facts to 0-based indices in presentation order; nothing is decoded.
`uniform`, `linspace`, `segment_middle`, `tsn`, `sparse`, `dense`, `hierarchical` need only a count
(`mmdata.views.frames_even`); `qwen2_vl`, `qwen3_vl`, `qwen_vl_utils`, `internvl`, `smolvlm` repeat what these models'
processors do (`mmdata.views.frames_models`); `keyframe`, `motion`, `adaptive`, `scenes` go by what the video holds
(`mmdata.views.frames_content`); `jitter` moves indices.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from mmdata.decode import packets as tables
from mmdata.errors import SpecError
from mmdata.types import Packets
from mmdata.views.frames_content import adaptive, keyframe, motion, scene_clips, scenes, spans
from mmdata.views.frames_even import (
    TooFewFrames,
    clips,
    dense,
    hierarchical,
    jitter,
    linspace,
    segment_middle,
    sparse,
    tsn,
    uniform,
)
from mmdata.views.frames_models import internvl, qwen2_vl, qwen3_vl, qwen_vl_utils, smolvlm

__all__ = [
    "RULES",
    "TooFewFrames",
    "adaptive",
    "clips",
    "dense",
    "hierarchical",
    "internvl",
    "jitter",
    "keyframe",
    "linspace",
    "motion",
    "qwen2_vl",
    "qwen3_vl",
    "qwen_vl_utils",
    "sample",
    "scene_clips",
    "scenes",
    "segment_middle",
    "smolvlm",
    "spans",
    "sparse",
    "tsn",
    "uniform",
]

RULES: dict[str, Callable[..., tuple[int, ...]]] = {
    "uniform": uniform,
    "linspace": linspace,
    "segment_middle": segment_middle,
    "tsn": tsn,
    "sparse": sparse,
    "dense": dense,
    "hierarchical": hierarchical,
    "keyframe": keyframe,
    "motion": motion,
    "adaptive": adaptive,
    "scenes": scenes,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "qwen_vl_utils": qwen_vl_utils,
    "internvl": internvl,
    "smolvlm": smolvlm,
}
BY_RATE = ("uniform", "qwen2_vl", "qwen3_vl", "qwen_vl_utils", "internvl", "smolvlm")
"""The rules that `kind="fps"` knows."""


def sample(
    kind: str,
    *,
    total: int | None = None,
    jittered: int = 0,
    rng: np.random.Generator | None = None,
    rule: str = "uniform",
    **parameters: Any,
) -> tuple[int, ...]:
    """The frames to decode of a video of `total` frames, by the rule `kind` and its parameters.

    `kind` is a name in `RULES`, or `fps`, which takes `fps` and `video_fps` by one of the rules in `BY_RATE`. With
    `packets` the `total` may be left out. `rng` makes the draws of rules that draw; `jittered` > 0 then moves each
    index by up to that many frames (`jitter`). Raises SpecError for a rule or a parameter that does not exist,
    TooFewFrames (a DataError and a ValueError) where the references refuse a number above `total`.

    >>> sample("uniform", total=10, num_frames=4)
    (0, 2, 5, 7)
    >>> sample("fps", rule="qwen3_vl", total=100, fps=1, video_fps=25)
    (0, 33, 66, 99)
    >>> from mmdata.rng import generator
    >>> sample("tsn", total=100, num_frames=4, mode="train", rng=generator(0, 1, "key"))
    (10, 29, 66, 84)
    """
    name = kind
    if kind == "fps":
        name = rule
        if rule not in BY_RATE:
            raise SpecError(f"frames fps: no rule {rule!r}; rules are {', '.join(BY_RATE)}")
        if parameters.get("fps") is None:
            raise SpecError("frames fps: give fps, and with it the video's rate (video_fps)")
    function = RULES.get(name)
    if function is None:
        raise SpecError(f"frames: no rule {kind!r}; rules are fps, {', '.join(RULES)}")
    packets = parameters.get("packets")
    if total is None and isinstance(packets, Packets):
        total = len(tables.shown(packets))
    if total is None:
        raise SpecError(f"frames {kind}: give total, the number of frames of the video")
    known = parameters_of(name)
    if rng is not None and "rng" in known:
        parameters["rng"] = rng
    if unknown := sorted(set(parameters) - known):
        raise SpecError(f"frames {kind}: no parameter {', '.join(unknown)}; parameters are {', '.join(sorted(known))}")
    if missing := sorted(_required(name) - set(parameters)):
        raise SpecError(f"frames {kind}: {', '.join(missing)} must be given")
    indices = function(total, **parameters)
    if jittered:
        if rng is None:
            raise SpecError("frames: jitter needs rng, such as mmdata.rng.generator(seed, epoch, key)")
        indices = jitter(indices, total, rng=rng, radius=jittered)
    return indices


@cache
def parameters_of(name: str) -> frozenset[str]:
    """The parameters of a rule, without `total`."""
    return frozenset(inspect.signature(RULES[name]).parameters) - {"total"}


@cache
def _required(name: str) -> frozenset[str]:
    """Those without a default."""
    parameters = inspect.signature(RULES[name]).parameters.values()
    return frozenset(one.name for one in parameters if one.default is one.empty) - {"total"}
