"""What stands between a tower that sees each frame alone and the connector: layers through time, and fewer vectors.

`model.video.kind` names one. Each has a spec and a module that takes `Footage` and answers the vectors of all pictures
that are left, and how many each has: a promise of the spec alone (`lengths_of`), by which the stream plans.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag, TypeAdapter
from torch import nn

from mmdata.errors import SpecError
from mmtrain.models.connectors import GRIDS
from mmtrain.models.video.attending import Attending, AttendingSpec
from mmtrain.models.video.footage import Footage
from mmtrain.models.video.hierarchical import Hierarchical, HierarchicalSpec

__all__ = ["AttendingSpec", "Footage", "HierarchicalSpec", "VideoSpec", "check", "lengths_of", "make", "read"]

ATTENDING = ("frames", "divided", "joint", "axial", "local")


def _kind(value: Any) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "attending" if kind in ATTENDING else kind


VideoSpec = Annotated[
    Annotated[AttendingSpec, Tag("attending")] | Annotated[HierarchicalSpec, Tag("hierarchical")],
    Discriminator(
        _kind,
        custom_error_type="video_kind",
        custom_error_message=f"kind must be one of {', '.join((*ATTENDING, 'hierarchical'))}",
    ),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(VideoSpec)


def read(value: dict[str, Any] | None) -> Any:
    """The spec that a model's `config.json` holds; None without any."""
    return None if value is None else _ADAPTER.validate_python(value)


def make(spec: Any, width: int, merge: int) -> nn.Module:
    """The module of a spec, for a tower of this width whose patches lie in blocks of merge x merge."""
    return Hierarchical(spec, width, merge) if spec.kind == "hierarchical" else Attending(spec, width, merge)


def lengths_of(spec: Any, frames: int, places: int) -> list[int]:
    """The patches of each picture that a video of `frames` frames of `places` patches becomes."""
    found: list[int] = spec.lengths(frames, places)
    return found


def check(spec: Any, connector: str, width: int, merge: int, *, dropping: bool) -> None:
    """Raises SpecError for what cannot be made of such a tower, or what a connector of that kind cannot take."""
    key = "model.video"
    if dropping:
        raise SpecError(f"{key}: {spec.kind} wants the same patches in every frame, and model.vision.drop leaves none")
    for where, told in ((key, spec), (f"{key}.inside", getattr(spec, "inside", None))):
        if told is not None and width % told.heads:
            raise SpecError(f"{where}.heads: {told.heads} heads do not divide the tower's width of {width}")
    inside = getattr(spec, "inside", None)
    if inside is not None and (inside.widens or inside.reduce is not None):
        raise SpecError(f"{key}.inside: takes neither video_token nor reduce; each clip becomes `tokens` vectors")
    reduce = getattr(spec, "reduce", None)
    if reduce is not None and reduce.kind == "conv" and reduce.kernel % 2 == 0:
        raise SpecError(f"{key}.reduce.kernel: {reduce.kernel}; an odd one has a middle")
    if spec.widens and merge != 1:
        raise SpecError(f"{key}: what is left are no whole frames; set model.vision.merge: 1")
    if spec.widens and connector in GRIDS:
        raise SpecError(f"model.connector.kind: {connector} wants grids of patches, and {key} leaves none")
