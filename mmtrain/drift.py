"""How far a vision tower has gone from where it began: the cosine of its features of fixed pictures, then and now."""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule

from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmdata.types import World
from mmtrain.components import components
from mmtrain.held_out import undisturbed
from mmtrain.objective import losses, target_weights
from mmtrain.rows import collator
from mmtrain.watch import DriftSpec


class Drift:
    """Measures a tower against its features at the beginning of the run, which checkpoints keep (`state_dict`: one
    tensor float32 [rows, width]). All ranks look at the same samples: the first of the stream that have pictures."""

    def __init__(self, told: DriftSpec, model: Any, stream: StreamingDataset, strategy: Any, pad_id: int) -> None:
        parts = components(model)
        if "vision" not in parts:
            raise SpecError("watch.drift: this model has no vision tower")
        if isinstance(model, FSDPModule):
            raise SpecError("watch.drift: not of a sharded model; leave it out, or set distributed.mode: ddp")
        self.told = told
        self._model = model
        self._tower = model.get_submodule(parts["vision"])
        self._strategy = strategy
        self._batches = [collator("auto", strategy, pad_id)([packed]) for packed in _pictured(stream, told.samples)]
        if not self._batches:
            raise SpecError("watch.drift: no sample of the stream has a picture or video")
        self._first = self._features()

    def due(self, step: int) -> bool:
        """Whether to measure after so many steps."""
        return step % self.told.every == 0

    def measure(self) -> float:
        """The mean over rows (patches) of the cosine of features then and now: 1 where nothing has moved."""
        now = self._features()
        return float(torch.nn.functional.cosine_similarity(now, self._first.to(now.device), dim=-1).mean())

    def state_dict(self) -> dict[str, Any]:
        return {"features": self._first}

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        self._first = saved["features"]

    def _features(self) -> torch.Tensor:
        found: list[torch.Tensor] = []

        def keep(module: torch.nn.Module, given: Any, output: Any) -> None:
            value = output if isinstance(output, torch.Tensor) else output[0]
            found.append(value.detach().float().flatten(0, -2))

        hook = self._tower.register_forward_hook(keep)
        device = next(self._model.parameters()).device
        try:
            with undisturbed(self._model):
                for batch in self._batches:
                    moved = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}
                    losses(self._model, moved, target_weights(moved, "token"), self._strategy)
        finally:
            hook.remove()
        return torch.cat(found)


def _pictured(stream: StreamingDataset, count: int) -> list[Any]:
    alone = StreamingDataset(stream.spec, family=stream.family, yields="encoded", world=World(), global_batch=1)
    found: list[Any] = []
    for packed in alone:
        if len(found) == count:
            break
        if any(slot.kind != "audio" for slot in getattr(packed, "slots", ())) and not getattr(packed, "masked", ()):
            found.append(packed)
    return found
