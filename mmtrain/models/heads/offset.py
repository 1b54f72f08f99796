"""A head that hears whether sound and picture of a clip belong together, and by how much one is late."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from mmdata.errors import DataError
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, keyed, record
from mmtrain.models.heads.films import Film, Towers, films, told, trained
from mmtrain.models.hearing import LANGUAGES, WAVES, spans
from mmtrain.models.hearing import told as hearing_told
from mmtrain.models.video.offset import OffsetPredictor


class OffsetSpec(Model):
    """How many steps the sound of a clip comes late (negative: early), on what the towers make of both, a vector for
    each step: the mean of the frames, and of the sound's vectors, that begin in it (`mmtrain.models.video.offset`,
    after SyncNet). It takes samples of one video and one sound, which are in time unless the field `offset` of the
    sample says by how many seconds the sound is late (carry it: `data.carry: [offset]`). In training each clip's sound
    is turned around by some steps, its end coming before its beginning, and goes through its tower once more, so that
    all offsets are as common and only what is seen and heard tells them: not silence in place of what is missing, nor
    the positions that towers add. So it is in evaluations, but where a sample says its offset: that is found as it
    is."""

    most: int = Field(8, ge=1)
    """Steps, to either side. Clips of more steps than that count."""
    hz: float = Field(4.0, gt=0)
    """Steps a second. Frames less often than that stand for several steps."""
    width: int = Field(32, ge=4)
    """Of the vectors that are compared."""
    kernel: int = Field(5, ge=1)
    """Steps that a vector is made of; odd."""

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value}; an odd one has a middle")
        return value


class OffsetHead(nn.Module):
    """`OffsetSpec`: vectors of frames of width `width`, of sound of width `heard`."""

    watches = True

    def __init__(self, spec: OffsetSpec, width: int, heard: int) -> None:
        super().__init__()
        self.spec = spec
        self.predictor = OffsetPredictor(width, heard, most=spec.most, width=spec.width, kernel=spec.kernel)
        self.auxiliary = {
            "offset": Term(weight=1.0, per="offset"),
            "offset_right": Term(weight=0.0, per="offset"),
            "offset_seconds": Term(weight=0.0, per="offset"),
        }

    def offset(self, frames: torch.Tensor, seconds: torch.Tensor, sound: torch.Tensor, hz: float) -> float:
        """By how many seconds sound [T, heard] of `hz` vectors a second is late behind frames [N, width] at `seconds`.
        Raises ValueError for clips that are too short."""
        steps = self.steps(seconds, len(sound), hz)
        both = self._both(frames, seconds, sound, hz, steps)
        return float(self.predictor.offset(*(each[None] for each in both))) / self.spec.hz

    def steps(self, seconds: torch.Tensor, sounds: int, hz: float) -> int:
        """As many as both have: up to the last frame, and the end of the sound."""
        seen = int(float(seconds[-1]) * self.spec.hz + EDGE) + 1
        return min(seen, math.floor(sounds / hz * self.spec.hz + EDGE))

    def _both(
        self, frames: torch.Tensor, seconds: torch.Tensor, sound: torch.Tensor, hz: float, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        when = torch.arange(len(sound), device=sound.device) / hz
        return stepped(frames, seconds, self.spec.hz, steps), stepped(sound, when, self.spec.hz, steps)

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each video counts 1 where there is one sound beside it, both are long enough, an offset that the sample says
        is within reach, and it can be read."""
        taught, heard, videos = trained(batch, weights), alone(model, batch), films(model, batch)
        known = [taught[film.segment] and self._fits(film, videos, heard, model, batch) for film in videos]
        return {"offset": torch.tensor(known, dtype=weights.dtype, device=weights.device)}

    def _fits(
        self,
        film: Film,
        videos: list[Film],
        heard: Mapping[int, tuple[int, int, int]],
        model: Any,
        batch: Mapping[str, Any],
    ) -> bool:
        if film.segment not in heard or sum(other.segment == film.segment for other in videos) > 1:
            return False
        if abs((late_by(told(batch, film)) or 0.0) * self.spec.hz) > self.spec.most + 0.5:
            return False
        hz = model.base_model.hearing.spec.hz
        return self.steps(film.seconds, heard[film.segment][2], hz) > self.spec.most

    def learn(self, model: Any, batch: Mapping[str, Any], towers: Towers) -> None:
        """Record the loss of each of a batch's videos, whether its offset is found to the step, and by how many seconds
        it is missed. Offsets are drawn by step and sample, whichever pack that is in."""
        videos, heard, keys = films(model, batch), alone(model, batch), batch.get("keys") or ()
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        each: dict[str, list[torch.Tensor]] = {name: [nothing] * len(videos) for name in self.auxiliary}
        hz = model.base_model.hearing.spec.hz
        mine = [at for at, film in enumerate(videos) if self._fits(film, videos, heard, model, batch)]
        wanted, turns = dict[int, int](), dict[int, int]()
        for at in mine:
            film, late = videos[at], late_by(told(batch, videos[at]))
            wanted[at] = round((late or 0.0) * self.spec.hz)
            if self.training or late is None:
                key = keys[film.segment] if film.segment < len(keys) else ""
                turns[heard[film.segment][0]] = self._drawn(wanted[at], keyed("offset", key))
                wanted[at] += turns[heard[film.segment][0]]
        sound = towers.sound
        if sound is not None:  # also where nothing is turned, for shards wait for each other in the tower
            sound = turned(model, batch, {number: steps / self.spec.hz for number, steps in turns.items()})
        for at in mine:
            assert sound is not None, "a sound is heard"
            film = videos[at]
            _, first, count = heard[film.segment]
            steps = self.steps(film.seconds, count, hz)
            frames, said = self._both(film.rows(towers), film.seconds, sound[first : first + count], hz, steps)
            logits = self.predictor(frames[None], said[None]).float()
            truth = max(-self.spec.most, min(self.spec.most, wanted[at]))
            each["offset"][at] = nothing + self.predictor.loss(logits, torch.tensor([truth], device=logits.device))
            off = abs(int(logits.argmax()) - self.spec.most - truth)
            each["offset_right"][at] = nothing + float(off == 0)
            each["offset_seconds"][at] = nothing + off / self.spec.hz
        for name, values in each.items():
            record(name, torch.stack(values) if values else nothing[None][:0])

    def _drawn(self, late: int, draw: torch.Generator) -> int:
        """By how many steps more a sound is made late: the sum with `late` is within -most and most."""
        most = self.spec.most
        low, high = max(-most, -most - late), min(most, most - late)
        return int(torch.randint(low, high + 1, (1,), generator=draw))


def turned(model: Any, batch: Mapping[str, Any], late: Mapping[int, float]) -> torch.Tensor:
    """The vectors [T, width] of all of a batch's sounds, those of the numbers in `late` so many seconds later, what
    goes beyond the end coming at the beginning: through the audio tower again."""
    body, features = model.base_model, batch["input_features"].clone()
    rate = SAMPLES if body.config.audio_config.model_type in WAVES else ROWS
    for number, seconds in late.items():
        count = int(batch["audio_frames"][number])
        features[number, ..., :count] = features[number, ..., :count].roll(round(seconds * rate), -1)
    languages = hearing_told(model, batch).get(LANGUAGES)
    rows, _ = body.hearing(body.audio_tower, features, batch["audio_frames"], languages)
    made: torch.Tensor = rows
    return made


SAMPLES, ROWS = 16_000, 100
"""A second, of waveforms and of log-mel."""
EDGE = 1e-3
"""Of a step: what rounding to milliseconds may take from a time."""


def stepped(rows: torch.Tensor, seconds: torch.Tensor, hz: float, steps: int) -> torch.Tensor:
    """The mean of the rows [N, width] whose `seconds` [N] lie in each of so many steps, `hz` a second: [steps, width];
    of a step in which there are none, that of the last one before it.

    >>> stepped(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0.0, 0.25, 1.0]), 2.0, 3)[:, 0].tolist()
    [2.0, 2.0, 5.0]
    """
    index = (seconds * hz + EDGE).long()
    kept = index < steps
    many = torch.bincount(index[kept], minlength=steps)
    summed = rows.new_zeros(steps, rows.shape[1]).index_add(0, index[kept], rows[kept])
    last = torch.where(many > 0, torch.arange(steps, device=rows.device), 0).cummax(0).values
    return (summed / many.clamp(min=1)[:, None].to(rows))[last]


def alone(model: Any, batch: Mapping[str, Any]) -> dict[int, tuple[int, int, int]]:
    """Of each segment with exactly one sound, its number in the batch, where its vectors begin among those of all
    sounds, and how many it has."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    at = 0
    for number, (segment, _, count) in enumerate(spans(model, batch) if batch.get("audio_frames") is not None else []):
        found.setdefault(segment, []).append((number, at, count))
        at += count
    return {segment: sounds[0] for segment, sounds in found.items() if len(sounds) == 1}


def late_by(fields: Mapping[str, Any]) -> float | None:
    """By how many seconds a sample says that its sound is late. Raises DataError `bad_offset` for no number."""
    given = fields.get("offset")
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise DataError("bad_offset", f"an offset is a number of seconds, not {str(given)[:60]}")
    return float(given)
