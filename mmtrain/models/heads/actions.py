"""A head that finds when things happen in a video: temporal action localisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import nn

from mmdata.errors import DataError
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.event_metrics import COLLAR, Event, counted
from mmtrain.models.heads.classes import Classes
from mmtrain.models.heads.films import Towers, films, told, trained
from mmtrain.models.video.heads import Localiser, found_events, localisation_loss


class ActionsSpec(Model):
    """Temporal action localisation on the vectors of frames, each the mean of its patches after `model.video`: how
    likely each frame lies in an action of each class, and how far off its begin and its end are
    (`mmtrain.models.video.heads.Localiser`, after ActionFormer). What happens is the field `actions` of the sample,
    [begin, end, label] each, in seconds; `[]` where nothing does. Carry it (`data.carry: [actions]`)."""

    classes: Classes = Field(min_length=1)
    hidden: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    threshold: float = Field(0.5, gt=0, lt=1)
    """Of a frame's probability, from which on it says that something happens;"""
    overlap: float = Field(0.3, gt=0, lt=1)
    """of two spans of a class whose IoU is above this, the likelier one is kept;"""
    collar: float = Field(COLLAR, gt=0)
    """and in evaluations both ends may be so many seconds off (an end a fifth of the length, where that is more)."""

    @model_validator(mode="after")
    def _divides(self) -> ActionsSpec:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class ActionsHead(nn.Module):
    """`ActionsSpec`: vectors of frames of width `width` to spans of time."""

    watches = True
    taught_by = ("actions",)

    def __init__(self, spec: ActionsSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        told = {"hidden": spec.hidden, "layers": spec.layers, "heads": spec.heads}
        self.localiser = Localiser(width, len(spec.classes), **told)
        self.auxiliary = {"action_spans": Term(weight=1.0, per="actions")} | {
            f"action_{name}": Term(weight=0.0, per="actions") for name in ("hits", "false", "missed")
        }

    def detect(self, rows: torch.Tensor, seconds: torch.Tensor) -> list[Event]:
        """The actions of one video: vectors of its frames [frames, width], shown at `seconds` [frames]."""
        with torch.no_grad():
            logits, reach = self.localiser(rows, [len(rows)], seconds)
            return self._events(logits, reach, seconds)

    def _events(self, logits: torch.Tensor, reach: torch.Tensor, seconds: torch.Tensor) -> list[Event]:
        limits = {"least": self.spec.threshold, "overlap": self.spec.overlap}
        found = found_events(logits.detach().float(), reach.detach().float(), seconds, **limits)
        return sorted(Event(begin, end, self.spec.classes[kind]) for kind, begin, end, _ in found)

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each video counts 1 where its sample says what happens, and can be read."""
        taught = trained(batch, weights)
        known = [taught[film.segment] and told(batch, film).get("actions") is not None for film in films(model, batch)]
        return {"actions": torch.tensor(known, dtype=weights.dtype, device=weights.device)}

    def learn(self, model: Any, batch: Mapping[str, Any], towers: Towers) -> None:
        """Record the losses of a batch's videos, and in evaluation how many of their actions are found."""
        videos = films(model, batch)
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        each: dict[str, list[torch.Tensor]] = {name: [nothing] * len(videos) for name in self.auxiliary}
        mine = [at for at, film in enumerate(videos) if told(batch, film).get("actions") is not None]
        if mine:
            rows = [videos[at].rows(towers) for at in mine]
            lengths = [len(each) for each in rows]
            seconds = torch.cat([videos[at].seconds for at in mine])
            logits, reach = (x.float() for x in self.localiser(torch.cat(rows), lengths, seconds))
            pieces = zip(mine, logits.split(lengths), reach.split(lengths), seconds.split(lengths), strict=True)
            for at, score, span, when in pieces:
                events = actions_of(told(batch, videos[at]), self.spec.classes)
                numbered = [(self.spec.classes.index(event.label), event.onset, event.offset) for event in events]
                each["action_spans"][at] = nothing + localisation_loss(score, span, when, [numbered], [len(when)])
                if not self.training:
                    counts = counted(self._events(score, span, when), events, collar=self.spec.collar)
                    for name, value in zip(("hits", "false", "missed"), counts, strict=True):
                        each[f"action_{name}"][at] = nothing + value
        for name, values in each.items():
            record(name, torch.stack(values) if values else nothing[None][:0])


def actions_of(fields: Mapping[str, Any], classes: tuple[str, ...]) -> list[Event]:
    """The actions of a sample that are of these classes. Raises DataError `bad_action` for what is none."""
    given = fields["actions"]
    try:
        events = [Event(float(begin), float(end), str(label)) for begin, end, label in given]
    except (TypeError, ValueError) as error:
        raise DataError("bad_action", f"actions are [begin, end, label] each, not {str(given)[:60]}") from error
    return [event for event in events if event.label in classes]
