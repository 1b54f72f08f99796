"""The loss of a global batch and its gradients: by 2 and 4 ranks, alone, and by loops that know nothing of ranks."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed
from torch.nn import functional as F

from mmdata.types import World
from mmtrain.contrastive.labels import LabelSpec
from mmtrain.contrastive.negatives import NegativesSpec
from mmtrain.contrastive.objective import Known, LossSpec, RegionsSpec, Whole, changed, losses
from mmtrain.distributed import join
from tests.mmtrain import ranks

D, PAIRS, QUEUED = 8, 13, 5
SOFT = LabelSpec(same_text=True, smoothing=0.1, teacher=0.4)
CASES: dict[str, LossSpec] = {
    "softmax": LossSpec(),
    "sigmoid": LossSpec(kind="sigmoid"),
    "softmax soft": LossSpec(labels=SOFT, regions=RegionsSpec()),
    "sigmoid soft": LossSpec(kind="sigmoid", labels=SOFT, regions=RegionsSpec(), chunk=3),
    "softmax hard": LossSpec(negatives=NegativesSpec(false_above=0.95, hardest=4)),
    "sigmoid hard": LossSpec(kind="sigmoid", negatives=NegativesSpec(likeness="vectors"), chunk=2),
}
SHARES = {2: [9, 4], 4: [6, 0, 4, 3]}
"""Rows of each rank: not as many, and none at all."""


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Whole, Known, Known]:
    """Pairs, some of whose texts are equal, and a queue."""
    draw = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> torch.Tensor:
        return F.normalize(torch.randn(*shape, D, generator=draw, dtype=dtype), dim=-1)

    mine = Whole(
        pictures=unit(PAIRS),
        texts=unit(PAIRS),
        regions=unit(PAIRS, 4),
        scale=torch.tensor([1.5], dtype=dtype),
        bias=torch.tensor([-2.0], dtype=dtype),
    )

    def known(count: int) -> Known:
        bags = F.normalize((torch.rand(count, 6, generator=draw, dtype=dtype) > 0.4).to(dtype) + 0.01, dim=-1)
        digests = torch.randint(0, 9, (count,), generator=draw)
        return Known(digests=digests, bags=bags, pictures=unit(count), texts=unit(count))

    return mine, known(PAIRS), known(QUEUED)


def computed(spec: LossSpec, each: list[int], world: World) -> dict[str, torch.Tensor]:
    """This rank's losses and the gradients of its rows, scale and bias."""
    mine, known, queue = inputs()
    first = sum(each[: world.rank])
    rows = slice(first, first + each[world.rank])
    names = ("pictures", "texts", "regions", "scale", "bias")
    held = {name: getattr(mine, name) for name in names}
    held = {name: value if len(value) == 1 else value[rows] for name, value in held.items()}
    if spec.regions is None:
        held["regions"] = None
    leaves = {name: value.clone().requires_grad_() for name, value in held.items() if value is not None}
    queued = queue if spec.labels.teacher or spec.negatives else None
    found = losses(
        spec,
        Whole(**{"regions": None, **leaves}),
        changed(known, lambda value: value[rows]),
        each=each,
        world=world,
        queue=queued,
        progress=0.3,
    )
    total: Any = torch.stack(list(found.values())).sum()
    total.backward()
    told = {f"loss {name}": value.detach()[None] for name, value in found.items()}
    return told | {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def main(told: list[str]) -> int:
    """What a rank does: every case, with its rows."""
    world = join()
    try:
        found = {name: computed(spec, SHARES[world.ranks], world) for name, spec in CASES.items()}
        torch.save(found, f"{told[0]}-{world.rank}.pt")
    finally:
        distributed.destroy_process_group()
    return 0


@pytest.mark.parametrize("count", [2, 4])
def test_ranks_find_what_one_process_finds(count: int, tmp_path: Path) -> None:
    """Losses add up to it, rows have its gradients, those of scale and bias add up to it: to 1e-6, and in float64 to
    rounding."""
    ranks.run(count, [str(tmp_path / "found")], tmp_path / "said", main)
    parts = [torch.load(tmp_path / f"found-{rank}.pt") for rank in range(count)]
    for name, spec in CASES.items():
        whole = computed(spec, [PAIRS], World())
        for key, expected in whole.items():
            pieces = [part[name][key] for part in parts]
            together = sum(pieces) if len(expected) == 1 else torch.cat(pieces)
            assert (together - expected).abs().max() < 1e-10, f"{name}: {key}"


@pytest.mark.parametrize("name", list(CASES))
def test_one_process_finds_what_loops_find(name: str) -> None:
    spec = CASES[name]
    found = computed(spec, [PAIRS], World())
    assert float(found["loss main"]) == pytest.approx(by_loops(spec), rel=1e-7)
    if name in ("softmax", "sigmoid"):
        mine, _, _ = inputs()
        logits = mine.pictures @ mine.texts.T * mine.scale.exp()
        own = torch.arange(PAIRS)
        if name == "softmax":
            theirs = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        else:
            theirs = -F.logsigmoid((2 * torch.eye(PAIRS) - 1) * (logits + mine.bias)).sum(-1).mean()
        assert float(found["loss main"]) == pytest.approx(float(theirs), rel=1e-9)


def by_loops(spec: LossSpec) -> float:
    """The main loss, row by row and candidate by candidate."""
    mine: Any
    known: Any
    queue: Any
    mine, known, queue = inputs()
    queued = bool(spec.labels.teacher or spec.negatives)
    total = 0.0
    sides: list[tuple[Any, ...]] = [
        (mine.pictures, mine.texts, queue.texts, known.pictures, known.texts),
        (mine.texts, mine.pictures, queue.pictures, known.texts, known.pictures),
    ]
    scale, bias = mine.scale.exp(), mine.bias
    levels = (1.0, 1 + 0.6 * 1, 1 + 0.6 * 3)  # at 0.3 of the run, weights of NegativesSpec have gone 0.6 of their way
    for side, (rows, batch, more, own_slow, batch_slow) in enumerate(sides):
        slow_more = queue.texts if side == 0 else queue.pictures
        for i in range(PAIRS):
            logits, targets, weights, teacher = [], [], [], []
            for j in range(PAIRS + (QUEUED if queued else 0)):
                inside = j < PAIRS
                if spec.kind == "sigmoid" and side == 1 and inside:
                    continue  # decided on the pictures' side
                other = batch[j] if inside else more[j - PAIRS]
                told = known if inside else queue
                at = j if inside else j - PAIRS
                x = rows[i] @ other * scale + (bias if spec.kind == "sigmoid" else 0)
                equal = spec.labels.same_text and bool(known.digests[i] == told.digests[at])
                mate = (inside and i == j) or equal
                weight = 1.0
                if spec.negatives is not None and not mate:
                    if spec.negatives.likeness == "words":
                        near = float(known.bags[i] @ told.bags[at])
                    else:
                        near = float(known.texts[i] @ told.texts[at])
                    weight = levels[sum(near >= level for level in spec.negatives.levels)]
                    if spec.negatives.false_above is not None and near > spec.negatives.false_above:
                        weight = 0.0
                slow = own_slow[i] @ (batch_slow[j] if inside else slow_more[at]) * scale
                logits.append(x)
                targets.append(float(mate))
                weights.append(weight)
                teacher.append(slow + (bias if spec.kind == "sigmoid" else 0))
            if not logits:
                continue
            if spec.negatives is not None and spec.negatives.hardest is not None:
                usable = [float(x) for x, t, w in zip(logits, targets, weights, strict=True) if not t and w]
                least = sorted(usable)[-spec.negatives.hardest]
                weights = [
                    w if t or float(x) >= least else 0.0 for x, t, w in zip(logits, targets, weights, strict=True)
                ]
            x = torch.cat(logits)
            z = torch.tensor(targets, dtype=torch.float64)
            taught = torch.cat(teacher)
            smoothing, share = spec.labels.smoothing, spec.labels.teacher
            weighed = torch.tensor(weights, dtype=torch.float64)
            if spec.kind == "softmax":
                z = (1 - smoothing) * z / z.sum() + smoothing / len(z)
                z = (1 - share) * z + share * taught.softmax(0)
                total += float((weighed * x.exp()).sum().log() - (z * x).sum()) / (2 * PAIRS)
            else:
                z = (1 - smoothing) * z + smoothing / 2
                z = (1 - share) * z + share * taught.sigmoid()
                each = -(z * F.logsigmoid(x) + (1 - z) * F.logsigmoid(-x))
                total += float((weighed * each).sum()) / PAIRS
    return total


def test_the_best_region_counts() -> None:
    """Copies of the picture as its regions give the loss of the picture."""
    mine, known, _ = inputs()
    spec = LossSpec(regions=RegionsSpec())
    same = replace(mine, regions=mine.pictures[:, None].expand(-1, 4, -1))
    found = losses(spec, same, known, each=[PAIRS], world=World())
    torch.testing.assert_close(found["region"], found["main"])
    best = losses(spec, mine, known, each=[PAIRS], world=World())["region"]
    seen = torch.einsum("nrd,md->nrm", mine.regions, mine.texts).amax(1) * mine.scale.exp()  # type: ignore[arg-type]
    own = torch.arange(PAIRS)
    torch.testing.assert_close(best, (F.cross_entropy(seen, own) + F.cross_entropy(seen.T, own)) / 2)


def test_a_scale_begins_below_its_limit() -> None:
    with pytest.raises(ValueError, match=r"loss\.scale: 500 is held to 100 at once; raise max_scale"):
        LossSpec(scale=500.0)
    assert LossSpec(scale=100.0, max_scale=100.0).most == math.log(100.0)
