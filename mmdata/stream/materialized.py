"""Media whose output a build has stored: when it is read in their place, and samples that cannot do without it."""

from __future__ import annotations

from collections.abc import Sequence

from mmdata.errors import DataError
from mmdata.families._family import View
from mmdata.stream.spec import StreamSpec
from mmdata.types import Media, MediaPlan, Stored
from mmdata.views import stored


def usable(medium: Media, view: View, plan: MediaPlan, spec: StreamSpec) -> Stored | None:
    """What the dataset holds of exactly this output (with `materialized: lossy`, also what comes near it), or None."""
    if spec.materialized == "off" or not medium.made:
        return None
    return stored.match(medium, view, plan, lossy=spec.materialized == "lossy")


def check_readable(media: Sequence[Media], views: Sequence[View], plans: Sequence[MediaPlan], spec: StreamSpec) -> None:
    """Raise DataError `materialized_other` where the dataset kept no bytes of a medium, only what a view made of it,
    and that is not what is asked for."""
    for medium, view, plan in zip(media, views, plans, strict=True):
        if medium.data is None and medium.place is None and usable(medium, view, plan, spec) is None:
            held = ", ".join(f"{made.format} of view {made.name}" for made in medium.made)
            raise DataError("materialized_other", f"the {medium.kind} was not kept, only {held or 'its facts'}")
