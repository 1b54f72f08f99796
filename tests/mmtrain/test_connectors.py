"""Connectors of every kind: the tokens that the plan promises, each picture for itself, against independent or
published computations with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mmtrain.models.connectors import CONNECTORS, Patches, make, read, tokens_of

WIDTH, OUT = 16, 24
GRIDS = ((4, 4), (2, 2), (2, 6), (4, 4))
LENGTHS = tuple(rows * columns for rows, columns in GRIDS)
KINDS: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "mlp"},
    {"kind": "mlp", "norm": False},
    {"kind": "pixel_shuffle"},
    {"kind": "pixel_shuffle", "projection": "linear"},
    {"kind": "patch_merger"},
    {"kind": "adaptive_pool", "tokens": 9},
    {"kind": "c_abstractor", "tokens": 4, "hidden": 8, "depth": 2},
    {"kind": "cross_attention", "tokens": 4, "heads": 2},
    {"kind": "cross_attention", "tokens": 3, "heads": 2, "hidden": 8, "positions": "none"},
    {"kind": "perceiver", "tokens": 5, "layers": 2, "heads": 2, "head_width": 6},
    {"kind": "perceiver", "tokens": 5, "layers": 1, "heads": 2, "head_width": 6, "hidden": 8},
    {"kind": "qformer", "tokens": 3, "hidden": 16, "layers": 3, "heads": 2, "inner": 20},
    {"kind": "clusters", "tokens": 4},
    {"kind": "token_merge", "tokens": 5},
    {"kind": "token_merge", "tokens": 5, "rule": "greedy"},
]


def made(told: dict[str, Any], merge: int | None = None) -> tuple[Any, nn.Module, int]:
    """A spec, its module with random weights (none of them zero), and the blocks that it merges."""
    spec = read(told)
    merge = merge or (2 if spec.merges else 1)
    torch.manual_seed(1)
    module = make(spec, WIDTH, OUT, merge)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return spec, module, merge


def row(seed: int = 0) -> torch.Tensor:
    return torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("told", KINDS, ids=lambda told: "-".join(map(str, told.values())))
def test_a_picture_in_a_row_is_a_picture_alone(told: dict[str, Any]) -> None:
    """As many tokens as promised; tokens and gradients of a row are those of its pictures alone; another picture's
    pixels move none by a bit, and nothing flows back to it."""
    spec, module, merge = made(told)
    x = row().requires_grad_()
    tokens = [tokens_of(spec, merge, length) for length in LENGTHS]
    found = module(Patches(rows=x, lengths=LENGTHS, grids=GRIDS))
    assert found.shape == (sum(tokens), OUT)
    target = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    (found * target).sum().backward()
    together = [parameter.grad.clone() for parameter in module.parameters()]  # all of them take part
    whole, x.grad = x.grad.clone(), None
    module.zero_grad()
    alone = [
        module(Patches(rows=mine, lengths=(length,), grids=(grid,)))
        for mine, length, grid in zip(x.split(LENGTHS), LENGTHS, GRIDS, strict=True)
    ]
    assert [len(each) for each in alone] == tokens
    assert (torch.cat(alone) - found).abs().max() < 1e-5
    (torch.cat(alone) * target).sum().backward()
    assert (x.grad - whole).abs().max() < 1e-4
    for mine, parameter in zip(together, module.parameters(), strict=True):
        assert (mine - parameter.grad).abs().max() < 1e-5 * max(1.0, float(mine.abs().max()))
    changed = x.detach().clone()
    changed[: LENGTHS[0]] += 1.0
    after = module(Patches(rows=changed, lengths=LENGTHS, grids=GRIDS))
    assert torch.equal(after[tokens[0] :], found[tokens[0] :])
    assert not torch.equal(after[: tokens[0]], found[: tokens[0]])
    x.grad = None
    module(Patches(rows=x, lengths=LENGTHS, grids=GRIDS))[: tokens[0]].sum().backward()
    assert x.grad[: LENGTHS[0]].any()
    assert not x.grad[LENGTHS[0] :].any()


def test_every_kind_is_tried_and_reads_back() -> None:
    assert {told["kind"] for told in KINDS} == set(CONNECTORS)
    for told in KINDS:
        spec = read(told)
        assert read(spec.model_dump()) == spec
    assert read("mlp") == read({"kind": "mlp"})
    for wrong in ({"kind": "c_abstractor", "tokens": 8}, {"kind": "qformer", "hidden": 16, "heads": 3}):
        with pytest.raises(ValidationError):
            read(wrong)


def copied(mine: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Give ours the weights of theirs, by the name that each of ours has there."""
    state = theirs.state_dict()
    mine.load_state_dict({name: state[other] for name, other in names.items()})
