"""What a plan amounts to: fill, padding, balance and what steps cost, from a planned block and the way it is dealt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mmdata import rng
from mmdata.pack import imbalance, lower_bound
from mmdata.stream.block import Block
from mmdata.stream.cost import loads
from mmdata.stream.deal import table
from mmdata.stream.plan import Planner
from mmdata.stream.position import Position

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Most over mean of a cost: on average over steps, and in the worst of them; 1 is perfect."""

    mean: float
    worst: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} (worst {self.worst:.3f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """One block as `ranks` ranks take it, `global_batch` packs a step; steps that the block does not fill are left out.

    `bound` is the fill that no packing could exceed. The spread over ranks is that of a whole step, and of its
    micro-steps. `media_share` is the variance over steps of the share of cost that the towers have, beside that of the
    same packs in an order of chance.
    """

    packs: int
    samples: int
    tokens: int
    fill: float
    padding: float
    bound: float
    steps: int
    step_total: Spread
    step_vision: Spread
    micro_total: Spread
    micro_vision: Spread
    step_cost: float
    """What the slowest rank of a step has to do, on average: the sum over micro-steps of the largest pack."""
    media_share: float
    media_share_by_chance: float
    left_out: dict[str, int]
    changed: dict[str, int]

    def lines(self) -> list[str]:
        """For a person."""
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(self.left_out.items())) or "none"
        lines = [
            f"packs  {self.samples:,} samples, {self.tokens:,} tokens in {self.packs:,} packs: {self.fill:.2%} filled "
            f"({self.bound:.2%} is the most that could be), {self.padding:.2%} padding; left out: {left}"
        ]
        if self.changed:
            lines.append("fitted " + ", ".join(f"{count} {what}" for what, count in sorted(self.changed.items())))
        if self.steps:
            lines.append(
                f"ranks  most over mean, of a step: total {self.step_total}, vision {self.step_vision}, "
                f"of a micro-step: total {self.micro_total.mean:.3f}, vision {self.micro_vision.mean:.3f}"
            )
            lines.append(
                f"steps  cost {self.step_cost:,.0f} each; variance of the towers' share {self.media_share:.2e} "
                f"(in an order of chance {self.media_share_by_chance:.2e})"
            )
        return lines


def plan_report(planner: Planner, ranks: int, global_batch: int, at: Position | None = None) -> PlanReport:
    """What the block of a position (the first one) amounts to."""
    block = planner.block(Position() if at is None else at)
    costs = loads(block.costs, planner.spec.costs)
    steps = [costs[start : start + global_batch] for start in range(0, len(costs) - global_batch + 1, global_batch)]
    dealt = [(step, table(step, ranks)) for step in steps]
    found = [imbalance(step[:, :2], plan) for step, plan in dealt]
    whole = np.array([each.step for each in found]).reshape(-1, 2)
    micro = np.array([each.micro.mean(0) for each in found]).reshape(-1, 2)
    rows, filled = _rows(block, planner)
    kept = block.measured.tokens[block.bins.items]
    row = planner.spec.row_tokens
    bound = lower_bound(kept, row) * row if row is not None and not block.padded and len(kept) else filled
    return PlanReport(
        packs=len(block.bins),
        samples=len(block.bins.items),
        tokens=filled,
        fill=filled / rows if rows else 1.0,
        padding=1 - filled / rows if rows else 0.0,
        bound=filled / bound if bound else 1.0,
        steps=len(steps),
        step_total=_spread(whole[:, 0]),
        step_vision=_spread(whole[:, 1]),
        micro_total=_spread(micro[:, 0]),
        micro_vision=_spread(micro[:, 1]),
        step_cost=float(np.mean([_slowest(step, plan) for step, plan in dealt])) if dealt else 0.0,
        media_share=_share_variance(costs, global_batch),
        media_share_by_chance=_share_variance(
            costs[rng.generator("report", len(costs)).permutation(len(costs))], global_batch
        ),
        left_out=dict(block.left_out),
        changed=dict(block.changed),
    )


def _rows(block: Block, planner: Planner) -> tuple[int, int]:
    """Tokens of all rows, padding included, and those that are samples'."""
    spec, tokens = planner.spec, block.measured.tokens
    filled = int(block.tokens.sum())
    if not len(block.bins):
        return 0, 0
    if block.padded:
        sizes = np.diff(block.bins.offsets)
        longest = np.maximum.reduceat(tokens[block.bins.items], block.bins.offsets[:-1])
        return int((-(-longest // spec.pad_multiple) * spec.pad_multiple * sizes).sum()), filled
    row = spec.row_tokens
    return (len(block.bins) * row if row is not None else filled), filled


def _spread(values: Floats) -> Spread:
    return Spread(mean=float(values.mean()), worst=float(values.max())) if len(values) else Spread(mean=1.0, worst=1.0)


def _slowest(costs: Floats, plan: npt.NDArray[np.int64]) -> float:
    """Ranks wait for each other after every micro-step."""
    padded = np.append(costs[:, 0], 0.0)
    return float(padded[plan].max(0).sum())


def _share_variance(costs: Floats, global_batch: int) -> float:
    """Variance over steps of the share of cost that vision and audio have."""
    count = len(costs) // global_batch * global_batch
    if not count:
        return 0.0
    sums = costs[:count].reshape(-1, global_batch, costs.shape[1]).sum(1)
    return float((sums[:, 1:].sum(1) / np.maximum(sums[:, 0], 1e-300)).var())
