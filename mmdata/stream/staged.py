"""What views look like while a stream goes on: resolutions and limits by stages, each from a block on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pydantic import Field, model_validator

from mmdata.errors import SpecError
from mmdata.families._family import Family, MediaRule, View
from mmdata.registry import nearest
from mmdata.spec import Model
from mmdata.types import MediaKind


class ViewStage(Model):
    """Settings of views that hold from a moment on, at the first block that begins there or later. What a stage does
    not name stays as it is."""

    at: int = Field(ge=0)
    """Samples of the stream that come before, those left out among them."""
    image: dict[str, Any] = Field(default_factory=dict)
    """Of the family's view of pictures, by their names: `{max_pixels: 401408}`."""
    video: dict[str, Any] = Field(default_factory=dict)
    """Of its view of videos."""
    audio: dict[str, Any] = Field(default_factory=dict)
    """Of its view of sounds."""

    @model_validator(mode="after")
    def _says_something(self) -> ViewStage:
        if not (self.image or self.video or self.audio):
            raise ValueError(f"the stage at {self.at} sets nothing; give it `image`, `video` or `audio`")
        return self


def out_of_order(stages: Sequence[ViewStage]) -> str | None:
    """What is wrong with the order of stages, or None."""
    for before, after in itertools.pairwise(stages):
        if after.at <= before.at:
            return f"views: the stage at {after.at} follows one at {before.at}; put them in ascending order"
    return None


def stage_of(stages: Sequence[ViewStage], before: int) -> int:
    """How many stages have begun when a block begins that has `before` samples of the stream before it."""
    return sum(stage.at <= before for stage in stages)


def staged(family: Family, stages: Sequence[ViewStage]) -> list[Family]:
    """The family as it is, and after each stage. Only plans differ: pixels are made by the operations of a plan, so a
    reader needs to know nothing of stages. Raises SpecError for media or settings that the family does not have."""
    result = [family]
    for stage in stages:
        result.append(_set(result[-1], {"image": stage.image, "video": stage.video, "audio": stage.audio}, stage.at))
    return result


def _set(family: Family, settings: Mapping[MediaKind, Mapping[str, Any]], at: int) -> Family:
    media = dict(family.media)
    for kind, values in settings.items():
        if values and kind not in media:
            raise SpecError(f"views: family {family.name} takes no {kind}; leave it out of the stage at {at}")
        if values:
            media[kind] = _rule(media[kind], values, f"views: {kind} at {at}")
    return replace(family, media=media)


def _rule(rule: MediaRule, values: Mapping[str, Any], where: str) -> MediaRule:
    several = None if rule.several is None else _view(rule.several, values, where)
    return replace(rule, view=_view(rule.view, values, where), several=several)


def _view(view: Any, values: Mapping[str, Any], where: str) -> View:
    known = [field.name for field in fields(view) if field.init]
    if unknown := [name for name in values if name not in known]:
        raise SpecError(f"{where}: {type(view).__name__} has no setting {unknown[0]!r}; {nearest(unknown[0], known)}")
    try:
        changed: View = replace(view, **{name: _frozen(value) for name, value in values.items()})
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: {error}") from error
    return changed


def _frozen(value: Any) -> Any:
    """Lists of a YAML file as the tuples that views have."""
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
