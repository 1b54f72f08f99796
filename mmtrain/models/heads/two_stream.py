"""A head that names what happens in a video by its pixels and their motion, beside the tower."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn
from torch.nn import functional as F

from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.models.heads.classes import Classes
from mmtrain.models.heads.films import Film, Towers, films, frames, told, trained
from mmtrain.models.video.heads import TwoStream


class TwoStreamSpec(Model):
    """Which of the classes a video shows: one stream of convolutions sees its frames, the other the optical flow
    between them (`mmtrain.models.video.heads.TwoStream`, after Simonyan and Zisserman). It sees pixels, normalised as
    the tower's are, and teaches nothing else. What happens is the field `action` of the sample, a class; carry it
    (`data.carry: [action]`). Samples of other actions do not count."""

    classes: Classes = Field(min_length=2)
    width: int = Field(32, ge=4)
    """Channels of both streams."""
    stack: int = Field(3, ge=1)
    """Frames of flow that are seen at once; odd."""

    @field_validator("stack")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError(f"{value}; an odd one has a middle")
        return value


class TwoStreamHead(nn.Module):
    """`TwoStreamSpec`."""

    watches = True
    taught_by = ("action",)

    def __init__(self, spec: TwoStreamSpec) -> None:
        super().__init__()
        self.spec = spec
        self.streams = TwoStream(len(spec.classes), spec.width, stack=spec.stack)
        self.auxiliary = {
            "two_stream": Term(weight=1.0, per="two_stream"),
            "two_stream_right": Term(weight=0.0, per="two_stream"),
        }

    def name(self, video: torch.Tensor) -> str:
        """What happens in one video [T, 3, H, W], normalised."""
        with torch.no_grad():
            return self.spec.classes[int(self.streams([video]).argmax())]

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """Each video counts 1 where its sample names a class, and can be read."""
        taught = trained(batch, weights)
        known = [taught[film.segment] and self._class(batch, film) is not None for film in films(model, batch)]
        return {"two_stream": torch.tensor(known, dtype=weights.dtype, device=weights.device)}

    def _class(self, batch: Mapping[str, Any], film: Film) -> int | None:
        named = told(batch, film).get("action")
        return self.spec.classes.index(str(named)) if str(named) in self.spec.classes else None

    def learn(self, model: Any, batch: Mapping[str, Any], towers: Towers) -> None:
        """Record the loss of each of a batch's videos, and whether it is named right. `towers` are not looked at."""
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        losses, right = list[torch.Tensor](), list[torch.Tensor]()
        videos = films(model, batch)
        pixels = frames(model, batch) if videos else []
        at = 0
        for film in videos:
            wanted, at = self._class(batch, film), at + film.frames
            if wanted is None:
                losses.append(nothing)
                right.append(nothing)
                continue
            logits = self.streams([torch.stack(pixels[at - film.frames : at])]).float()
            losses.append(nothing + F.cross_entropy(logits, torch.tensor([wanted], device=logits.device)))
            right.append(nothing + float(int(logits.argmax()) == wanted))
        for name, values in (("two_stream", losses), ("two_stream_right", right)):
            record(name, torch.stack(values) if values else nothing[None][:0])
