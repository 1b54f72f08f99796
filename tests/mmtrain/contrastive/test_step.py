"""A step's gradient: made in passes from kept vectors (GradCache), or all at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from mmdata.types import World
from mmtrain.contrastive.momentum import Momentum, MomentumSpec
from mmtrain.contrastive.pairs import Pairs
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.contrastive.step import backward, known_of, ordered
from mmtrain.contrastive.towers import DualEncoder, TextSpec, VisionSpec
from mmtrain.distributed import join
from tests.mmtrain import ranks
from tests.mmtrain.contrastive.test_towers import pairs_of, small

SOFT = {"labels": {"same_text": True, "smoothing": 0.1, "teacher": 0.4}, "regions": {}, "words": {}}
CASES: dict[str, dict[str, Any]] = {
    "softmax": {"loss": {}},
    "sigmoid": {"loss": {"kind": "sigmoid"}},
    "softmax with all": {"loss": {**SOFT, "negatives": {}}, "momentum": {"queue": 5}, "masking": {"share": 0.3}},
    "sigmoid with all": {"loss": {"kind": "sigmoid", **SOFT, "negatives": {}}, "momentum": {"queue": 5}},
}


def spec_of(told: dict[str, Any], **more: Any) -> ContrastiveSpec:
    values = {"data": {"dataset": "somewhere"}, "output": "run", **told, **more}
    return ContrastiveSpec.model_validate(values, context={"check_paths": False})


def batch(count: int) -> Pairs:
    pairs = pairs_of([(2 + number % 3, 2) for number in range(count)], 48)
    return replace(pairs, texts=[*pairs.texts[:-1], pairs.texts[0]])  # two of the same words


def passes(pairs: Pairs, sizes: list[int]) -> list[Pairs]:
    lengths = [rows * columns for rows, columns in pairs.grids]
    found, at, first = [], 0, 0
    for size in sizes:
        patches = sum(lengths[at : at + size])
        mine = slice(at, at + size)
        found.append(
            Pairs(
                patches=pairs.patches[first : first + patches],
                grids=pairs.grids[mine],
                texts=pairs.texts[mine],
                keys=pairs.keys[mine],
            )
        )
        at, first = at + size, first + patches
    return found


def gradients(spec: ContrastiveSpec, parts: list[Pairs]) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    model = small().double()
    parts = [replace(part, patches=part.patches.double()) for part in parts]
    momentum = None
    if spec.momentum is not None:
        momentum = Momentum(model, spec.momentum, bags=True)
        for parameter in momentum.model.parameters():
            parameter.data += 0.01
        whole = passes(batch(7), [7])
        known = known_of(
            spec, [replace(each, patches=each.patches.double()) for each in whole], momentum, torch.device("cpu")
        )
        momentum.push(ordered(known, whole, [7], World()))
    found, _ = backward(
        spec,
        model,
        parts,
        known_of(spec, parts, momentum, torch.device("cpu")),
        [sum(map(len, parts))],
        World(),
        queue=momentum.queue if momentum is not None else None,
        progress=0.3,
    )
    made = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"main": found.loss, **found.terms}, made


@pytest.mark.parametrize("name", list(CASES))
def test_cached_is_uncached(name: str) -> None:
    """However many passes, with or without kept graphs: the same losses and gradients."""
    whole = batch(9)
    losses, expected = gradients(spec_of(CASES[name], grad_cache="never"), [whole])
    for cache, sizes in (("never", [4, 5]), ("auto", [4, 3, 2]), ("always", [9])):
        told, found = gradients(spec_of(CASES[name], grad_cache=cache), passes(whole, sizes))
        assert told == pytest.approx(losses, rel=1e-6), (cache, sizes)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert (found[key] - value).abs().max() < 1e-6 * max(1.0, float(value.abs().max())), (cache, sizes, key)


def test_a_queue_keeps_the_last() -> None:
    model = small()
    spec = spec_of({"loss": {}, "momentum": {"queue": 5}})
    momentum = Momentum(model, MomentumSpec(queue=5), bags=False)
    assert momentum.queue is None
    pushed = []
    for size in (3, 4, 2):
        part = batch(size)
        rows = known_of(spec, [part], momentum, torch.device("cpu"))
        momentum.push(rows)
        pushed.append(rows.digests)
    queue = momentum.queue
    assert queue is not None
    assert torch.equal(queue.digests, torch.cat(pushed)[-5:])
    other = Momentum(small(), MomentumSpec(queue=5), bags=False)
    other.load_state_dict(momentum.state_dict())
    assert other.queue is not None
    assert torch.equal(other.queue.pictures, queue.pictures)  # type: ignore[arg-type]
    model.scale.data += 1.0
    before = float(momentum.model.scale)
    momentum.follow(model)
    assert float(momentum.model.scale) == pytest.approx(before + 0.005 * (float(model.scale) - before))


def test_a_copy_of_weights_in_half_precision_follows_them() -> None:
    """Steps of a two-hundredth of the way are less than bfloat16 can tell apart."""
    model = small().bfloat16()
    momentum = Momentum(model, MomentumSpec(decay=0.99), bags=False)
    before = momentum.model.text.embedding.weight.clone()
    model.text.embedding.weight.data *= 1.5
    for _ in range(500):
        momentum.follow(model)
    torch.testing.assert_close(momentum.model.text.embedding.weight, 1.5 * before, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_tower_that_is_held_has_no_gradient(part: str) -> None:
    """LiT with SigLIP's pictures, which no projection follows: passes whose vectors carry no gradient."""
    torch.manual_seed(2)
    model = DualEncoder(
        VisionSpec(hidden=32, patch=4, table=4),
        TextSpec(hidden=16, heads=2, context=8),
        projection=None,
        vocabulary=60,
        pad_id=0,
    )
    for held in (getattr(model, part), *([model.of_text] if part == "text" else [])):
        held.requires_grad_(False)
    found = {}
    for cache in ("never", "always"):
        model.zero_grad()
        parts = passes(batch(6), [4, 2])
        backward(
            spec_of({"loss": {}}, grad_cache=cache),
            model,
            parts,
            known_of(spec_of({"loss": {}}), parts, None, torch.device("cpu")),
            [6],
            World(),
        )
        found[cache] = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert found["never"].keys() == found["always"].keys()
    assert not any(name.startswith(part) for name in found["always"])
    for name, value in found["never"].items():
        torch.testing.assert_close(found["always"][name], value, rtol=1e-4, atol=1e-6)


def held_but_for_layers(parts: list[Pairs], each: list[int], kind: str, world: World) -> dict[str, torch.Tensor]:
    """The gradient of a model of which the layers of the text tower alone are trained."""
    model = small()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("text.layers"))
    spec = spec_of({"loss": {"kind": kind}}, grad_cache="never")
    backward(spec, model, parts, known_of(spec, parts, None, torch.device("cpu")), each, world)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def main(told: list[str]) -> int:
    world = join()
    parts = passes(batch(4), [4, 0])[world.rank :][:1]
    for kind in ("softmax", "sigmoid"):
        found = held_but_for_layers(parts, [4, 0], kind, world)
        if world.rank == 0:
            torch.save(found, f"{told[0]}.{kind}")
    distributed.destroy_process_group()
    return 0


def test_a_rank_without_pairs_takes_part_where_little_is_trained(tmp_path: Path) -> None:
    """What it makes of nothing carries no gradient there; the others would have waited for it."""
    ranks.run(2, [str(tmp_path / "found")], tmp_path / "said", main)
    for kind in ("softmax", "sigmoid"):
        expected = held_but_for_layers([batch(4)], [4], kind, World())
        found = torch.load(tmp_path / f"found.{kind}")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
