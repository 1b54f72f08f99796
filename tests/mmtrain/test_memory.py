"""A step on shapes: what is counted, and for how long; whole models are in `test_estimate.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmtrain.memory import measure

ROWS, WIDE, INSIDE = 10, 6, 20


class Choosing(nn.Module):
    """Two experts, of which each row goes to one."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(WIDE, 2)
        self.experts = nn.ModuleList(nn.Linear(WIDE, INSIDE) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        share, chosen = self.router(x).softmax(-1).topk(1)
        made = x.new_zeros(len(x), INSIDE)
        for number, expert in enumerate(self.experts):
            (places,) = torch.nonzero(chosen[:, 0] == number, as_tuple=True)
            made = made.index_add(0, places, expert(x[places]) * share[places])
        return made


def named(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A plain model for what asks for the aliases of its modules."""
    monkeypatch.setattr(
        "mmtrain.memory.module_aliases", lambda model: {n: "body" for n, _ in model.named_modules() if n}
    )
    return model


def test_a_layer_keeps_its_input_and_its_gradients_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """x is of the batch; Linear keeps x, gelu its input; the loss is a scalar."""
    model = named(nn.Sequential(nn.Linear(WIDE, INSIDE), nn.GELU(), nn.Linear(INSIDE, 1)), monkeypatch)
    batch: dict[str, Any] = {"x": torch.randn(ROWS, WIDE)}
    found = measure(model, batch, lambda: model(batch["x"]).sum())
    hidden, scalar = ROWS * INSIDE * 4, 4
    assert found.kept == {"body": 2 * hidden, "head": scalar}
    assert found.peak >= 2 * hidden + scalar + hidden
    assert (found.state, found.moving) == (0, 0)


def test_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = named(nn.Sequential(nn.Linear(WIDE, WIDE), nn.BatchNorm1d(WIDE)), monkeypatch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    own = dict(model.named_parameters())
    x = torch.randn(ROWS, WIDE)
    measure(model, {"x": x}, lambda: model(x).sum(), lambda: torch.optim.SGD(model.parameters(), 1.0), passes=2)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "1.num_batches_tracked")
    assert all(parameter is own[name] and parameter.grad is None for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_optimiser_keeps_its_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    model = named(nn.Linear(WIDE, INSIDE), monkeypatch)
    x = torch.randn(ROWS, WIDE)
    size = sum(p.nbytes for p in model.parameters())
    kept = {}
    for name, make in {
        "adamw": lambda: torch.optim.AdamW(model.parameters(), fused=True),
        "momentum": lambda: torch.optim.SGD(model.parameters(), 0.1, momentum=0.9),
        "sgd": lambda: torch.optim.SGD(model.parameters(), 0.1),
    }.items():
        kept[name] = measure(model, {"x": x}, lambda: model(x).sum(), make).state
    assert kept["adamw"] == pytest.approx(2 * size, abs=16)  # and a counter for each
    assert (kept["momentum"], kept["sgd"]) == (size, 0)


def test_choices_are_taken_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which expert a row meets is not known; each meets half of them, and every matrix has a gradient."""
    model = named(Choosing(), monkeypatch)
    x = torch.randn(ROWS, WIDE)
    seen = []
    model.experts[0].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    found = measure(model, {"x": x}, lambda: model(x).sum(), lambda: torch.optim.SGD(model.parameters(), 1.0))
    assert seen == [ROWS // 2]
    assert found.peak > sum(p.nbytes for p in model.parameters())


def test_masks_of_the_batch_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many rows a mask leaves is read off it, in all ways in which models ask."""
    model = named(nn.Linear(WIDE, 1), monkeypatch)
    x, mask = torch.randn(ROWS, WIDE), torch.arange(ROWS) % 3 == 0

    def loss() -> torch.Tensor:
        made = model(x)
        kept = made[mask]
        assert kept.shape == (4, 1)
        assert made.masked_select(mask[:, None]).shape == (4,)
        assert made.repeat_interleave(mask.long(), 0).shape == (4, 1)
        return kept.sum() + F.mse_loss(made, torch.zeros_like(made))

    assert measure(model, {"x": x, "mask": mask}, loss).peak > 0


def test_values_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = named(nn.Linear(WIDE, 1), monkeypatch)
    x = torch.randn(ROWS, WIDE)
    with pytest.raises(RuntimeError):
        measure(model, {"x": x}, lambda: model(x).sum() * float(model(x).sum()))
    assert type(model.weight) is nn.Parameter


def test_parts_that_call_each_other_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer of one part that is called inside a layer of another, by a container that is never called itself."""

    class Outer(nn.Module):
        def __init__(self, inside: nn.ModuleList) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDE, WIDE)
            self.call = lambda x: inside[0](x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.gelu(self.call(self.linear(x)))

    model = nn.Module()
    model.inside = nn.ModuleList([nn.Sequential(nn.Linear(WIDE, INSIDE), nn.GELU(), nn.Linear(INSIDE, WIDE))])
    model.outer = Outer(model.inside)
    parts = {name: name.split(".")[0] for name, _ in model.named_modules() if name}
    monkeypatch.setattr("mmtrain.memory.module_aliases", lambda model: parts)
    x = torch.randn(ROWS, WIDE)
    found = measure(model, {"x": x}, lambda: model.outer(x).sum())
    narrow, wide = ROWS * WIDE * 4, ROWS * INSIDE * 4
    assert found.kept == {"outer": narrow, "inside": 2 * wide + narrow, "head": 4}
