"""Anchors of a vision tower to where it began, against forgetting: its features, and whom its patches attend to.

A copy of the tower as the run begins is kept beside the model, frozen and in `eval()`; every training pass goes through
both, and what lies between them is an auxiliary loss (`mmtrain.auxiliary`), a mean over pictures: `distill` and
`attention` in the log as `aux/...`, their weights by `anchor` or by `auxiliary`. The copy is made of the same model
again when a run goes on, and its digest is in every checkpoint, so that it cannot be another one. Drift itself is
measured by `watch.drift`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch.nn import functional as F
from transformers import PreTrainedModel

from mmdata.errors import RunError, SpecError
from mmdata.spec import Model
from mmtrain import attention, quantise
from mmtrain.attention import Scores
from mmtrain.auxiliary import Term, record
from mmtrain.models.connectors import Patches
from mmtrain.models.native import NativeModel
from mmtrain.models.towers import Navit, pictures

FEATURES, ATTENTION = "distill", "attention"


class FeatureAnchorSpec(Model):
    """Distillation to the initial tower: a picture's loss is the mean over its patches."""

    kind: Literal["cosine", "kl"] = "cosine"
    """1 - cosine of the features now and then; or temperature^2 * KL(then || now) of their softmax over channels
    (Hinton et al. 2015, arXiv 1503.02531, §2: the teacher's distribution comes first, and temperature^2 keeps gradients
    as large)."""
    weight: float = Field(1.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    """Of `kl`."""


class AttentionAnchorSpec(Model):
    """KL(then || now) of what each patch attends to: a picture's loss is the mean over layers, heads and patches."""

    weight: float = Field(1.0, ge=0)
    layers: tuple[int, ...] = Field((-1,), min_length=1)
    """Which of the tower's layers, from 0, or from -1 back. Each costs a matrix of patches x patches per picture and
    head, twice, which attention itself never makes."""


class AnchorSpec(Model):
    """What of the vision tower is held to what it was when the run (of stages, this one) began."""

    features: FeatureAnchorSpec | None = None
    attention: AttentionAnchorSpec | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.features is None and self.attention is None:
            raise ValueError("nothing is anchored; set features: {}, or attention: {}")
        return self


class Anchor:
    """A tower as it was, and what is held to it. Called by `NativeModel.patches` while the model is trained."""

    def __init__(self, spec: AnchorSpec, tower: torch.nn.Module, depth: int) -> None:
        self.spec = spec
        self._depth = depth
        self.teacher = copy.deepcopy(tower).eval().requires_grad_(False)
        quantise.remove(self.teacher)
        if isinstance(self.teacher, PreTrainedModel):
            attention.register()
            self.teacher.set_attn_implementation(attention.NAME)  # what its patches attend to is seen there
        self._digest = _digest(self.teacher)

    def __str__(self) -> str:
        return f"anchor     a frozen copy of the vision tower, {self.size / 2**20:,.1f} MiB, runs beside it"

    @property
    def size(self) -> int:
        """Bytes of the copy."""
        return sum(tensor.nbytes for tensor in self.teacher.state_dict().values())

    def state_dict(self) -> dict[str, Any]:
        return {"digest": self._digest}

    def load_state_dict(self, saved: Mapping[str, Any], /) -> None:
        """Raises ValueError where the tower began as another one."""
        if saved["digest"] != self._digest:
            raise ValueError("its anchor is another tower than this run's model begins with")

    def see(self, body: NativeModel, media: Mapping[str, Any]) -> Patches | None:
        """What the model's tower makes of a batch's pictures; what lies between that and the initial tower is
        recorded."""
        wanted = self.spec.attention
        with _watched(wanted is not None) as now:
            mine = pictures.see(body.vision_tower, body.config, media)
        if mine is None:
            return None
        with torch.no_grad(), _watched(wanted is not None) as then:
            theirs = pictures.see(self.teacher, body.config, media)
        assert theirs is not None, "the same batch"
        if (told := self.spec.features) is not None:
            each = _between(mine.rows.float(), theirs.rows.float(), told)
            record(FEATURES, torch.stack([piece.mean() for piece in each.split(mine.lengths)]))
        if wanted is not None:
            record(ATTENTION, self._attended(now, then, wanted.layers))
        return mine

    def _attended(self, now: Sequence[Scores], then: Sequence[Scores], layers: Sequence[int]) -> torch.Tensor:
        depth = self._depth
        if not now or len(now) != len(then) or len(now) % depth:
            raise RunError(
                f"anchor.attention: {len(now)} of {depth} layers show whom their patches attend to; this tower is not "
                "trained with the attention of mmtrain (collate: auto, and a model that takes packed rows)"
            )
        found = []
        for start in range(0, len(now), depth):  # images, then frames of videos, of towers of fixed size
            each = [_divergence(now[start + layer % depth], then[start + layer % depth]) for layer in layers]
            found.append(torch.stack(each).mean(0))
        return torch.cat(found)


def hold(model: Any, spec: AnchorSpec | None) -> Anchor | None:
    """Anchor a model's vision tower as it is now, and declare the losses. Raises SpecError for a model that has none of
    ours, for layers that it has not, and for features that are mixed on purpose."""
    if spec is None:
        return None
    body = model.base_model
    if not isinstance(body, NativeModel) or not hasattr(body, "vision_tower"):
        raise SpecError("anchor: only models of kind: native that have a vision tower are anchored; leave it out")
    tower: Any = body.vision_tower
    layer = body.config.vision_layer
    if getattr(tower, "mixup", 0):
        raise SpecError("anchor: model.vision.mixup moves features away on purpose; set one of them only")
    if not any(True for _ in tower.parameters()):
        raise SpecError("anchor: this vision tower has nothing that could move")
    runs = int(tower.config.num_hidden_layers) + (1 + layer if isinstance(tower, Navit) else 0)
    for wanted in () if spec.attention is None else spec.attention.layers:
        if not -runs <= wanted < runs:
            raise SpecError(f"anchor.attention.layers: {wanted}, and {runs} layers of the tower run")
    terms: dict[str, Term] = {}
    if spec.features is not None:
        terms[FEATURES] = Term(weight=spec.features.weight, per="picture")
    if spec.attention is not None:
        terms[ATTENTION] = Term(weight=spec.attention.weight, per="picture")
    body.auxiliary = terms
    body.anchor = found = Anchor(spec, tower, runs)
    return found


def _between(now: torch.Tensor, then: torch.Tensor, told: FeatureAnchorSpec) -> torch.Tensor:
    """The loss of each patch, float32 [P], of features [P, width]."""
    if told.kind == "cosine":
        return 1 - F.cosine_similarity(now, then, dim=-1)
    logs = F.log_softmax(now / told.temperature, -1), F.log_softmax(then / told.temperature, -1)
    return told.temperature**2 * F.kl_div(*logs, reduction="none", log_target=True).sum(-1)


def _divergence(now: Scores, then: Scores) -> torch.Tensor:
    """KL(then || now) of each picture, the mean over heads and queries: float32 [pictures]."""
    pairs = zip(_distributions(now), _distributions(then), strict=True)
    return torch.stack([F.kl_div(n, t, reduction="none", log_target=True).sum(-1).mean() for n, t in pairs])


def _distributions(scores: Scores) -> Iterator[torch.Tensor]:
    """Log-probabilities of each segment, float32 [heads, queries, keys]."""
    sizes = scores.cu_seqlens.diff().tolist()
    for query, key in zip(scores.query.split(sizes), scores.key.split(sizes), strict=True):
        yield F.log_softmax(torch.einsum("qhd,khd->hqk", query.float(), key.float()) * scores.scale, -1)


@contextmanager
def _watched(wanted: bool) -> Iterator[list[Scores]]:
    if not wanted:
        yield []
        return
    with attention.watched() as found:
        yield found


def _digest(tower: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in tower.state_dict().items():
        found.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
