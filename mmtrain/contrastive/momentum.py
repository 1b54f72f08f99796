"""The momentum encoder and its queue: candidates of earlier steps, made by weights that move slowly (MoCo)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pydantic import Field

from mmdata.spec import Model
from mmtrain.contrastive.objective import Known
from mmtrain.contrastive.pairs import BAG
from mmtrain.contrastive.towers import DualEncoder

PART = "momentum"
"""Its name among a job's parts."""


class MomentumSpec(Model):
    """A copy of the model that follows it (MoCo: He et al. 2020, arXiv 1911.05722; ALBEF: Li et al. 2021, arXiv
    2107.07651)."""

    decay: float = Field(0.995, gt=0, lt=1)
    """What it keeps of itself at each step."""
    queue: int = Field(0, ge=0)
    """Pairs of earlier steps that each picture and each text is compared with besides the batch's; 0 for none."""


class Momentum:
    """The copy, and the queue: its vectors of the last pairs, the oldest first, the same on every rank. The copy of
    weights in half precision has float32: it moves by less than these can tell apart."""

    def __init__(self, model: DualEncoder, spec: MomentumSpec, *, bags: bool) -> None:
        self.spec = spec
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        if model.scale.dtype.itemsize < 4:
            self.model.float()
        device = model.scale.device
        self.filled = 0
        """Rows of the queue that hold something, the first ones."""
        self.pictures = torch.zeros(spec.queue, model.width, device=device)
        self.texts = torch.zeros(spec.queue, model.width, device=device)
        self.digests = torch.zeros(spec.queue, dtype=torch.int64, device=device)
        self.bags = torch.zeros(spec.queue, BAG, device=device) if bags else None

    @property
    def queue(self) -> Known | None:
        """What is queued; None while it is nothing."""
        if not self.filled:
            return None
        held = self.filled
        return Known(
            digests=self.digests[:held],
            bags=None if self.bags is None else self.bags[:held],
            pictures=self.pictures[:held],
            texts=self.texts[:held],
        )

    @torch.no_grad()
    def follow(self, model: DualEncoder) -> None:
        """Go towards the model's weights."""
        for mine, other in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(other.detach().to(mine.dtype), 1 - self.spec.decay)

    @torch.no_grad()
    def push(self, rows: Known) -> None:
        """Queue rows, of all ranks in an order that they agree on; the oldest make room."""
        if not self.spec.queue:
            return
        assert rows.pictures is not None
        assert rows.texts is not None
        held = min(self.spec.queue, self.filled + len(rows.digests))
        for mine, new in (
            (self.pictures, rows.pictures),
            (self.texts, rows.texts),
            (self.digests, rows.digests),
            (self.bags, rows.bags),
        ):
            if mine is not None and new is not None:
                mine[:held] = torch.cat([mine[: self.filled], new.to(mine.dtype)])[-held:]
        self.filled = held

    def state_dict(self) -> dict[str, Any]:
        queue = {"pictures": self.pictures, "texts": self.texts, "digests": self.digests}
        if self.bags is not None:
            queue["bags"] = self.bags
        return {"filled": self.filled, "queue": queue, "weights": dict(self.model.named_parameters())}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.filled = int(saved["filled"])
        with torch.no_grad():
            for name, value in self.state_dict()["queue"].items():
                value.copy_(saved["queue"][name])
            for name, parameter in self.model.named_parameters():
                parameter.copy_(saved["weights"][name])
