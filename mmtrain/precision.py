"""Where a run computes and in which numbers: device, autocast, weights' type, the loss scale of fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from mmdata.errors import SpecError

DeviceName = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16", "fp16"]
Weights = Literal["fp32", "bf16"]
DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(name: DeviceName) -> torch.device:
    """The device of this process; of several GPUs, the one it was given (`torch.cuda.set_device`). Raises SpecError
    for CUDA where there is none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError("device: cuda: torch finds no GPU here; use auto or cpu")
    return torch.device("cuda", torch.cuda.current_device())


def problem(precision: Precision, weights: Weights) -> str | None:
    """What is wrong with the two together, or None."""
    if weights == "bf16" and precision != "bf16":
        return f"params: bf16 weights compute in bf16; set precision: bf16 (it is {precision}), or params: fp32"
    return None


def place(model: Any, device: torch.device, weights: Weights) -> Any:
    """The model on the device, its weights of that type. Buffers keep theirs: the frequencies of rotary positions have
    8 bits in bf16, which is off by whole turns at position 4,000. Float32 products stay exact: no TF32, neither in
    products of matrices nor in convolutions, where torch has it on."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model = model.to(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.data = parameter.data.to(DTYPES[weights])
    return model


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Forward passes inside compute matrix products in `precision`, from weights of any type; sums of squares, softmax
    and losses stay in float32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def compute_dtype(device: torch.device, default: torch.dtype) -> torch.dtype:
    """The type of matrix products here and now: autocast's where it is on, else `default`."""
    if torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return default


LEAST = 2.0**-14
"""A loss scale under this does not help: what is not finite then is so without it, and is for the gate to judge."""


@dataclass(slots=True)
class LossScale:
    """The factor on fp16's loss that keeps small gradients from vanishing: halved when a gradient overflows, doubled
    after `interval` steps without. The rule and its numbers are those of `torch.amp.GradScaler`; it is ours because
    the decision is taken once for all ranks, from the norm of the whole gradient."""

    scale: float = 65536.0
    good: int = 0
    """Steps without an overflow since the last change."""
    interval: int = 2000

    def update(self, *, finite: bool) -> None:
        """Tell how a step went."""
        if not finite:
            self.scale, self.good = self.scale / 2, 0
            return
        self.good += 1
        if self.good == self.interval:
            self.scale, self.good = self.scale * 2, 0

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good": self.good}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.scale, self.good = float(saved["scale"]), int(saved["good"])
