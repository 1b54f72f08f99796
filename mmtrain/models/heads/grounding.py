"""A head that reads boxes, and masks, off the hidden states of a language model that is about to write a box."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn
from torch.nn import functional as F

from mmdata.boxes import BoxFormat, moves_with_size
from mmdata.spec import Model
from mmtrain.auxiliary import Term, Unit, record
from mmtrain.models.heads import box_losses
from mmtrain.models.heads.located import Place, locate, tensor_of
from mmtrain.models.heads.masks import grids_of, masks_of
from mmtrain.models.heads.targets import fields_of

Decode = Callable[[int], str]
LEAST = 1e-2
"""Of a side where a box begins, and 1 - it the most: beyond, the MLP could not bring it back."""


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

    look: bool = False
    """Whether a box begins where its mask lies: the MLP adds to the middle and the extent of the mask's probabilities,
    as Deformable DETR's adds to the point that it looks at (Zhu et al. 2021, arXiv 2010.04159, appendix A.3). A state
    need not carry numbers then, only what to look for. Needs `masks`."""

    @model_validator(mode="after")
    def _has_where_to_look(self) -> Self:
        if self.look and not self.masks:
            raise ValueError("look: it begins from masks; set masks: true")
        return self

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

    def forward(self, queries: torch.Tensor, begins: torch.Tensor | None = None) -> torch.Tensor:
        """[N, width] -> boxes float32 [N, 4], centre and size in shares of the sides; with `look`, what is added to
        `begins` (`extent` of masks) [N, 4], which are such boxes."""
        found: torch.Tensor = self.box(queries).float()
        return (found if begins is None else found + begins.logit(LEAST)).sigmoid()

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
        grids = grids_of(model.base_model, batch) if self.spec.masks else {}
        masks = [
            self.mask_logits(queries[number], grid.of(hidden)) if (grid := grids.get(place.segment)) else None
            for number, place in enumerate(places)
        ]
        begins = None
        if self.spec.look:
            middle = queries.new_full((4,), 0.5, dtype=torch.float32)
            begins = torch.stack([middle if mask is None else extent(mask) for mask in masks] or [middle])
        found, wanted = self(queries, begins)[: len(places)], box_losses.ordered(tensor_of(places, hidden)).clamp(0, 1)
        corners = box_losses.to_xyxy(found)
        record("box_l1", box_losses.l1(found, box_losses.to_cxcywh(wanted)))
        record("box_giou", 1 - box_losses.giou(corners, wanted))
        record("box_iou", box_losses.iou(corners, wanted).detach())
        if self.spec.masks:
            self._learn_masks(hidden, masks, masks_of(places, grids, fields_of(batch)), corners)

    def _learn_masks(
        self,
        hidden: torch.Tensor,
        masks: Sequence[torch.Tensor | None],
        wanted: Sequence[np.ndarray | None],
        corners: torch.Tensor,
    ) -> None:
        nothing = (self.of_query(hidden[:1]).sum() + self.of_patch(hidden[:1]).sum()) * 0
        losses: dict[str, list[torch.Tensor]] = {"mask_bce": [], "mask_dice": [], "box_mask": []}
        for number, (logits, mask) in enumerate(zip(masks, wanted, strict=True)):
            truth = None if mask is None else torch.from_numpy(mask).to(hidden.device)
            both = logits is not None and truth is not None
            losses["mask_bce"].append(box_losses.mask_bce(logits, truth) if both else nothing)  # type: ignore[arg-type]
            losses["mask_dice"].append(box_losses.mask_dice(logits, truth) if both else nothing)  # type: ignore[arg-type]
            losses["box_mask"].append(nothing if logits is None else box_losses.box_mask(logits, corners[number]))
        for name, values in losses.items():
            record(name, torch.stack(values) if values else nothing[None][:0])


def extent(logits: torch.Tensor) -> torch.Tensor:
    """The box [4], centre and size in shares of the sides, that the probabilities of one mask's cells [rows, columns]
    would fill evenly: their mean place, and sides of sqrt(12) deviations, those of an even spread.

    >>> mask = torch.full((4, 8), -9.0); mask[1:3, 2:6] = 9
    >>> [round(each, 2) for each in extent(mask).tolist()]
    [0.5, 0.5, 0.5, 0.5]
    """
    # Probabilities over their sum, also where all are too small for float32.
    shares = F.logsigmoid(logits.float()).flatten().softmax(0).view_as(logits)
    middles, sides = [], []
    for along in (shares.sum(0), shares.sum(1)):
        cells = (torch.arange(len(along), device=along.device) + 0.5) / len(along)
        middle = (along * cells).sum()
        # A cell is spread over its own width too.
        spread = (along * (cells - middle).square()).sum() + 1 / (12 * len(along) ** 2)
        middles.append(middle)
        sides.append((12 * spread).sqrt())
    return torch.stack(middles + sides)
