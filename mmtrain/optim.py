"""AdamW over what the rules train: its groups, its kernels, how long its steps may be."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, field_validator
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.spec import Model
from mmtrain.adapters.install import rest
from mmtrain.components import aliases
from mmtrain.rules import Setting
from mmtrain.schedule import ScheduleSpec

Implementation = Literal["auto", "fused", "foreach", "plain", "paged_8bit"]
Beta = Annotated[float, Field(ge=0, lt=1)]
ALL = "all"
"""In `clip`: the gradient as a whole."""


class ScaleSpec(Model):
    """Learning rates that were found for another batch."""

    reference_batch: int = Field(..., ge=1)
    """Packs per step for which they hold."""
    rule: Literal["linear", "sqrt"] = "sqrt"
    """They are multiplied by global_batch / reference_batch (Goyal et al., 2017), or by the root of it, as suits Adam
    (Malladi et al., 2022)."""


class OptimSpec(ScheduleSpec):
    """AdamW (Loshchilov & Hutter, 2019) under a schedule with warm-up."""

    lr: float = Field(3e-3, gt=0)
    """Peak learning rate."""
    scale_lr: ScaleSpec | None = None
    """Whether peak rates, those of the rules too, follow the global batch."""
    weight_decay: float = Field(0.01, ge=0)
    """For matrices; norms, biases and embeddings have none."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: float = Field(1e-8, gt=0)
    clip: float | dict[str, float] | None = 1.0
    """Largest norm of the gradient; or of that of each part by its name, `all` for the whole after that:
    `{vision: 0.3, connector: 1.0, all: 1.0}`. Null: any."""
    implementation: Implementation = "auto"
    """`auto` is `fused` (one kernel for all tensors) wherever torch has it for the device; `foreach` and `plain` are
    torch's others. `paged_8bit` is bitsandbytes' PagedAdamW8bit: moments in 8 bits, in memory that may be paged out."""

    @field_validator("clip")
    @classmethod
    def _positive(cls, value: float | dict[str, float] | None) -> float | dict[str, float] | None:
        limits = value.values() if isinstance(value, dict) else () if value is None else (value,)
        if any(not limit > 0 for limit in limits):
            raise ValueError("a gradient's largest norm must be more than 0; null is no limit")
        return value

    @property
    def limits(self) -> dict[str, float]:
        """What `clip` says, by part."""
        if isinstance(self.clip, dict):
            return self.clip
        return {} if self.clip is None else {ALL: self.clip}


def lr_factor(spec: OptimSpec, global_batch: int) -> float:
    """What peak rates are multiplied by for this batch.

    >>> lr_factor(OptimSpec(scale_lr=ScaleSpec(reference_batch=64, rule="sqrt")), 16)
    0.5
    """
    if spec.scale_lr is None:
        return 1.0
    ratio = global_batch / spec.scale_lr.reference_batch
    return ratio if spec.scale_lr.rule == "linear" else math.sqrt(ratio)


def optimizer(model: Any, spec: OptimSpec, settings: Mapping[str, Setting], *, factor: float = 1) -> Any:
    """AdamW over the groups of `grouped`. Raises SpecError as that does, and for an implementation that is not to be
    had here."""
    groups = grouped(model, spec, settings, factor=factor)
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return _adamw(spec, devices)(groups, betas=spec.betas, eps=spec.eps)


def grouped(model: Any, spec: OptimSpec, settings: Mapping[str, Setting], *, factor: float = 1) -> list[dict[str, Any]]:
    """All parameters that are trained at some time, in groups of one part, peak rate (`peak`: as the rules have it,
    times `factor`) and weight decay.

    `settings` are those of `rules.resolve`, by alias. Where they do not say otherwise, matrices decay; vectors (norms,
    biases) and embeddings do not. Parameters that are still frozen have no gradient and are passed over: their moments
    and step count begin when they are thawed. Raises SpecError for a limit of a part that is not trained, and where
    nothing is trained at all, or nothing from the first step on.
    """
    named = aliases(model)
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    groups: dict[tuple[str, float, float], list[torch.nn.Parameter]] = {}
    begins = math.inf
    for name, parameter in model.named_parameters():
        setting = settings[named[name]]
        if not setting.train:
            continue
        begins = min(begins, setting.thaws)
        decays = parameter.ndim >= 2 and id(parameter) not in tables
        decay = (spec.weight_decay if decays else 0.0) if setting.weight_decay is None else setting.weight_decay
        part = named[name].split(".")[0]
        groups.setdefault((part, setting.rate(spec.lr) * factor, decay), []).append(parameter)
    if not groups:
        raise SpecError("parameters: the rules leave nothing to train")
    if begins > 0:
        raise SpecError(
            f"parameters: nothing is trained for the first {begins:.0%} of the steps (freeze_until, freeze_step); let "
            "a part begin at once"
        )
    parts = {part for part, _, _ in groups}
    for part in spec.limits:
        if part != ALL and part not in parts:
            raise SpecError(f"optim.clip: no part {part!r} is trained; {nearest(part, sorted({*parts, ALL}))}")
    return [
        {"params": parameters, "lr": peak, "peak": peak, "part": part, "weight_decay": decay}
        for (part, peak, decay), parameters in groups.items()
    ]


def _adamw(spec: OptimSpec, devices: set[str]) -> Any:
    wanted = spec.implementation
    if wanted == "paged_8bit":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise SpecError("optim.implementation: paged_8bit needs bitsandbytes: pip install bitsandbytes")
        if devices != {"cuda"}:
            raise SpecError(f"optim.implementation: paged_8bit pages CUDA memory; the model is on {sorted(devices)}")
        from bitsandbytes.optim import PagedAdamW8bit

        return PagedAdamW8bit
    from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

    able = devices <= set(_get_fused_kernels_supported_devices())
    if wanted == "fused" and not able:
        raise SpecError(f"optim.implementation: torch has no fused AdamW for {sorted(devices)}; use auto")
    fused = wanted == "fused" or (wanted == "auto" and able)
    foreach = wanted == "foreach" or (wanted == "auto" and not able)

    def adamw(groups: Any, **options: Any) -> torch.optim.AdamW:
        return torch.optim.AdamW(groups, fused=fused, foreach=foreach, **options)

    return adamw


def staged(settings: Mapping[str, Setting]) -> bool:
    """Whether some parameters are not trained, always or at first, so that `thaw` has something to say."""
    return any(setting.thaws or not setting.train for setting in settings.values())


def thaw(model: Any, settings: Mapping[str, Setting], progress: float) -> list[str]:
    """Let the rules' parameters need gradients, or not, at `progress` (0 to 1) of the run, and put modules of which all
    is frozen into `eval()` (their dropout and statistics stand still too). Answers the aliases that are trained now.
    Call it after `model.train()`."""
    trained = []
    named = aliases(model)
    for name, parameter in model.named_parameters():
        setting = settings[named[name]]
        parameter.requires_grad_(setting.train and progress >= setting.thaws)
        if parameter.requires_grad:
            trained.append(named[name])
    for module in model.modules():
        if not _any_trained(module.parameters()) and next(module.parameters(), None) is not None:
            module.eval()
    rest(model)
    return trained


def _any_trained(parameters: Iterable[torch.nn.Parameter]) -> bool:
    return any(parameter.requires_grad for parameter in parameters)


def set_rates(optim: torch.optim.Optimizer, factor: float) -> None:
    """Each group's rate: its peak times `factor`."""
    for group in optim.param_groups:
        group["lr"] = group["peak"] * factor


def rates(optim: torch.optim.Optimizer) -> dict[str, float]:
    """The largest rate of each part as it is now."""
    result: dict[str, float] = {}
    for group in optim.param_groups:
        result[group["part"]] = max(result.get(group["part"], 0.0), float(group["lr"]))
    return result


def gradient_norms(optim: torch.optim.Optimizer) -> dict[str, float]:
    """The norm of each part's gradient, whole also where it is spread over ranks; a part without any has 0."""
    return {part: _norm([p.grad for p in members]) for part, members in _members(optim).items()}


def clip(optim: torch.optim.Optimizer, norms: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """Shorten gradients in place: those of each part to its limit, then all together to that of `all`. `norms` are
    those before, as `gradient_norms` has them; the result is those after.

    Factors are torch's: limit / (norm + 1e-6) where that is less than 1.
    """
    after = dict(norms)
    for part, members in _members(optim).items():
        if part in limits:
            after[part] *= _shorten(members, norms[part], limits[part])
    if ALL in limits:
        factor = _shorten([p for members in _members(optim).values() for p in members], total(after), limits[ALL])
        after = {part: norm * factor for part, norm in after.items()}
    return after


def total(norms: Mapping[str, float]) -> float:
    """The norm of the whole gradient, from those of its parts.

    >>> total({"vision": 3.0, "language": 4.0})
    5.0
    """
    return math.sqrt(math.fsum(norm * norm for norm in norms.values()))


def _members(optim: torch.optim.Optimizer) -> dict[str, list[torch.nn.Parameter]]:
    result: dict[str, list[torch.nn.Parameter]] = {}
    for group in optim.param_groups:
        if group.get("beside"):  # no part of the model, and of its gradient
            continue
        result.setdefault(group["part"], []).extend(p for p in group["params"] if p.grad is not None)
    return result


def _norm(gradients: list[torch.Tensor | None]) -> float:
    norm = get_total_norm([gradient for gradient in gradients if gradient is not None])
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


def _shorten(parameters: list[torch.nn.Parameter], norm: float, limit: float) -> float:
    factor = min(1.0, limit / (norm + 1e-6))
    if factor < 1:
        scale_gradients(parameters, factor)
    return factor


def scale_gradients(parameters: Iterable[torch.nn.Parameter], factor: float) -> None:
    """Multiply all gradients in place."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)
