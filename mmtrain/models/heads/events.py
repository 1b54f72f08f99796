"""A head that hears events: which sounds there are in a clip, and when."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from mmdata.errors import DataError
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.event_metrics import COLLAR, Event, counted, events_of, frames_of
from mmtrain.models.heads.classes import Classes
from mmtrain.models.heads.targets import fields_of
from mmtrain.models.hearing import spans

LEAST = 1e-7
"""Of what a frame counts for a class (DCASE's baseline)."""


class EventsSpec(Model):
    """Sound-event detection on the states of a sound's tokens: the probability of each class in each frame, and in the
    clip, which is a mean of its frames' by learned weights (softmax over classes), so that clips whose frames nobody
    labelled teach too (DCASE task 4's baseline: Turpault et al. 2019, §4). What is to be heard is the field `events` of
    the sample, [onset, offset, label] each, in seconds; or `event_labels`, names alone, of the whole clip. Carry them
    (`data.carry: [events, event_labels]`)."""

    classes: Classes = Field(min_length=1)
    hidden: int = Field(128, ge=8)
    threshold: float = Field(0.5, gt=0, lt=1)
    """Of a frame's probability, from which on there is an event;"""
    gap: float = Field(0.0, ge=0)
    """stretches with no more seconds between them are one;"""
    collar: float = Field(COLLAR, gt=0)
    """and an onset may be so many seconds off, in evaluations."""


class EventsHead(nn.Module):
    """`EventsSpec`: states of width `width` to probabilities."""

    taught_by = ("events", "event_labels")

    def __init__(self, spec: EventsSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.body = nn.Sequential(nn.Linear(width, spec.hidden), nn.ReLU())
        self.frames = nn.Linear(spec.hidden, len(spec.classes))
        self.weights = nn.Linear(spec.hidden, len(spec.classes))
        self.auxiliary = {
            "event_frames": Term(weight=1.0, per="sound"),
            "event_clip": Term(weight=0.5, per="sound"),
            "event_hits": Term(weight=0.0, per="sound"),
            "event_false": Term(weight=0.0, per="sound"),
            "event_missed": Term(weight=0.0, per="sound"),
        }

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One sound [frames, width] -> logits of frames [frames, classes] and probabilities of the clip [classes]."""
        hidden = self.body(states)
        logits = self.frames(hidden).float()
        weights = self.weights(hidden).float().softmax(-1).clamp(min=LEAST, max=1)
        clip = (logits.sigmoid() * weights).sum(0) / weights.sum(0)
        return logits, clip

    def detect(self, states: torch.Tensor, hz: float) -> list[Event]:
        """The events of one sound [frames, width], `hz` frames a second."""
        with torch.no_grad():
            found = self(states)[0].sigmoid().cpu().numpy()
        return events_of(found, self.spec.classes, hz, threshold=self.spec.threshold, gap=self.spec.gap)

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each sound counts 1 where its sample says what is to be heard, and can be read. (One that has names alone
        adds 0 to `event_frames`.)"""
        fields, found = fields_of(batch), spans(model, batch) if batch.get("audio_frames") is not None else []
        known = [bool(fields) and told(fields[segment])[1] is not None for segment, _, _ in found]
        return {"sound": torch.tensor(known, dtype=weights.dtype, device=weights.device)}

    def learn(self, model: Any, batch: Mapping[str, Any], hidden: torch.Tensor) -> None:
        """Record the losses of a batch's sounds, and in evaluation how many of their events are found."""
        places = spans(model, batch) if batch.get("audio_frames") is not None else []
        fields = fields_of(batch)
        nothing = sum(parameter.sum() for parameter in self.parameters()) * 0 + hidden[:1].sum() * 0
        hz = model.base_model.hearing.spec.hz
        each: dict[str, list[torch.Tensor]] = {name: [] for name in self.auxiliary}
        for segment, first, count in places:
            events, names = told(fields[segment] if fields else {})
            for name in each:
                each[name].append(nothing)
            if not count or names is None:
                continue
            logits, clip = self(hidden[first : first + count])
            here = torch.tensor([float(name in names) for name in self.spec.classes], device=hidden.device)
            with torch.autocast(clip.device.type, enabled=False):  # on CUDA, autocast refuses this loss of any type
                each["event_clip"][-1] = F.binary_cross_entropy(clip.float().clamp(0, 1), here)
            if events is None:
                continue
            wanted = torch.from_numpy(frames_of(events, self.spec.classes, count, hz)).to(hidden.device)
            each["event_frames"][-1] = F.binary_cross_entropy_with_logits(logits, wanted)
            if not self.training:
                mine = [event for event in events if event.label in self.spec.classes]
                counts = counted(self.detect(hidden[first : first + count], hz), mine, collar=self.spec.collar)
                for name, value in zip(("hits", "false", "missed"), counts, strict=True):
                    each[f"event_{name}"][-1] = nothing + value
        for name, values in each.items():
            record(name, torch.stack(values) if values else nothing[None][:0])


def told(fields: Mapping[str, Any]) -> tuple[list[Event] | None, set[str] | None]:
    """The events of a sample, and the names of what is heard; None where it does not say. Raises DataError `bad_event`
    for what is no event."""
    given, names = fields.get("events"), fields.get("event_labels")
    if given is None:
        return None, None if names is None else {str(name) for name in names}
    try:
        events = [Event(float(onset), float(offset), str(label)) for onset, offset, label in given]
    except (TypeError, ValueError) as error:
        raise DataError("bad_event", f"events are [onset, offset, label] each, not {str(given)[:60]}") from error
    return events, {event.label for event in events}
