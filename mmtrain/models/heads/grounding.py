"""A head that reads boxes, and masks, off the hidden states of a language model that is about to write a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from mmdata.boxes import BoxFormat, moves_with_size
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.models.heads import box_losses
from mmtrain.models.heads.located import Place, locate, tensor_of
from mmtrain.models.heads.masks import grids_of, masks_of
from mmtrain.models.heads.targets import fields_of

Decode = Callable[[int], str]


class GroundingSpec(Model):
    """Beside the words of a box, a second reading of it: the hidden state that predicts the first token of a box in an
    answer goes through a small MLP to the box itself, so that L1 and GIoU tell the language model how far off it is,
    which cross-entropy over tokens does not. With `masks`, the same state is compared with the hidden states of the
    picture's tokens, which makes a mask of the picture's grid (LISA: Lai et al. 2023, arXiv 2308.00692, §3.2; the MLP
    and the losses of boxes are DETR's: Carion et al. 2020, arXiv 2005.12872, §3.1)."""

    coordinates: BoxFormat
    """How answers write boxes (`mmdata.boxes`)."""
    hidden: int = Field(256, ge=8)
    """Width of the MLPs."""
    masks: bool = False
    """Whether there is a mask for each box: `mask_bce` and `mask_dice` where the data says `polygons`
    (`data.carry: [boxes, polygons]`), `box_mask` always. Only for connectors whose tokens are a grid."""

    @field_validator("coordinates")
    @classmethod
    def _shares(cls, value: BoxFormat) -> BoxFormat:
        if moves_with_size(value):
            raise ValueError(f"{value} counts pixels of what the model sees; the head needs shares of the picture")
        return value


class GroundingHead(nn.Module):
    """`GroundingSpec`: hidden states of width `width` to boxes and masks."""

    def __init__(self, spec: GroundingSpec, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.box = nn.Sequential(
            nn.Linear(width, spec.hidden),
            nn.ReLU(),
            nn.Linear(spec.hidden, spec.hidden),
            nn.ReLU(),
            nn.Linear(spec.hidden, 4),
        )
        self.auxiliary = {
            "box_l1": Term(weight=5.0, per="box"),
            "box_giou": Term(weight=2.0, per="box"),
            "box_iou": Term(weight=0.0, per="box"),
        }
        if spec.masks:
            self.of_query = nn.Sequential(nn.Linear(width, spec.hidden), nn.ReLU(), nn.Linear(spec.hidden, spec.hidden))
            self.of_patch = nn.Linear(width, spec.hidden)
            self.auxiliary |= {
                "mask_bce": Term(weight=2.0, per="box"),
                "mask_dice": Term(weight=0.5, per="box"),
                "box_mask": Term(weight=1.0, per="box"),
            }
        self.decode: Decode | None = None

    def forward(self, queries: torch.Tensor) -> torch.Tensor:
        """[N, width] -> boxes float32 [N, 4], centre and size in shares of the sides."""
        found: torch.Tensor = self.box(queries).float().sigmoid()
        return found

    def mask_logits(self, query: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Of one box's hidden state [width] and its picture's tokens [rows, columns, width]: float [rows, columns]."""
        mine, theirs = self.of_query(query), self.of_patch(patches)
        return (theirs @ mine) / mine.shape[-1] ** 0.5

    def places(self, batch: Mapping[str, Any]) -> list[Place]:
        """The boxes of a batch's answers."""
        if self.decode is None:
            raise ValueError("the head cannot read tokens: call mmtrain.models.heads.tell(model, tokenizer)")
        return locate(batch, self.decode, self.spec.coordinates)

    def units(self, model: Any, batch: Mapping[str, Any], weights: torch.Tensor) -> dict[Unit, torch.Tensor]:
        """What each box counts: 1 where its first token weighs anything in the loss."""
        firsts = torch.tensor([place.first for place in self.places(batch)], dtype=torch.long, device=weights.device)
        return {"box": (weights[firsts] != 0).to(weights.dtype)}

    def learn(self, model: Any, batch: Mapping[str, Any], hidden: torch.Tensor) -> None:
        """Record the losses of a batch's boxes: `hidden` [T, width] are the language model's last states. Modules run
        in every pass, boxes or not, for shards wait for each other in them."""
        places = self.places(batch)
        at = [place.query for place in places] or [0]
        queries = hidden[torch.tensor(at, device=hidden.device)]
        found, wanted = self(queries)[: len(places)], box_losses.ordered(tensor_of(places, hidden)).clamp(0, 1)
        corners = box_losses.to_xyxy(found)
        record("box_l1", box_losses.l1(found, box_losses.to_cxcywh(wanted)))
        record("box_giou", 1 - box_losses.giou(corners, wanted))
        record("box_iou", box_losses.iou(corners, wanted).detach())
        if self.spec.masks:
            self._learn_masks(model, batch, hidden, places, queries, corners)

    def _learn_masks(
        self,
        model: Any,
        batch: Mapping[str, Any],
        hidden: torch.Tensor,
        places: Sequence[Place],
        queries: torch.Tensor,
        corners: torch.Tensor,
    ) -> None:
        grids = grids_of(model.base_model, batch)
        wanted = masks_of(places, grids, fields_of(batch))
        nothing = (self.of_query(hidden[:1]).sum() + self.of_patch(hidden[:1]).sum()) * 0
        losses: dict[str, list[torch.Tensor]] = {"mask_bce": [], "mask_dice": [], "box_mask": []}
        for number, place in enumerate(places):
            grid = grids.get(place.segment)
            logits = None if grid is None else self.mask_logits(queries[number], grid.of(hidden))
            mask = wanted[number]
            truth = None if mask is None else torch.from_numpy(mask).to(hidden.device)
            both = logits is not None and truth is not None
            losses["mask_bce"].append(box_losses.mask_bce(logits, truth) if both else nothing)  # type: ignore[arg-type]
            losses["mask_dice"].append(box_losses.mask_dice(logits, truth) if both else nothing)  # type: ignore[arg-type]
            losses["box_mask"].append(nothing if logits is None else box_losses.box_mask(logits, corners[number]))
        for name, values in losses.items():
            record(name, torch.stack(values) if values else nothing[None][:0])
