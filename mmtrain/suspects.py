"""From a spike to its cause: the samples of a replayed step by what each adds to the loss beyond what was expected."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdata.errors import DataError, RunError
from mmdata.types import Item, Origin
from mmtrain.spikes import Spike

if TYPE_CHECKING:
    from mmtrain.replay import Replayed, SampleLoss

SHOWN = 5
"""Samples of a step that are shown, the worst first."""
HALF = 0.5
SPREAD = 0.25
"""Where it takes more than this share of a step's samples to make half of its leap, no sample is to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A sample of a step."""

    number: int
    """Among the samples of the step, from 0, in the order of the packs."""
    sample: SampleLoss
    expected: float
    """What was expected of it, in nats per target: the running loss of its task, else of all."""
    excess: float
    """What it adds to the step's loss beyond that, in nats; over all samples these sum up to the leap."""
    item: Item
    dataset: Path
    origin: Origin | None
    """The source row; None where the dataset does not tell, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A spike, its step done again, and its samples, the worst first."""

    spike: Spike
    found: Replayed
    ranked: list[Suspect]
    blamed: int
    """How many of the first make half of what the step adds: those that are not finite, if there are any."""

    @property
    def spread(self) -> bool:
        """Whether no sample is to blame: then look at what the steps before did to the weights."""
        return self.blamed > max(1, SPREAD * len(self.ranked))

    @property
    def suspects(self) -> list[Suspect]:
        """Those that the step's leap is to be blamed on; none where it is spread."""
        return [] if self.spread else self.ranked[: self.blamed]

    def lines(self) -> list[str]:
        """For a person."""
        spike, found = self.spike, self.found
        left_out = f", left out by the run ({spike.skipped})" if spike.skipped else ""
        leap = f"{spike.score:.1f} deviations above" if math.isfinite(spike.score) else "where it should be"
        told = [
            f"step {spike.step}: loss {spike.loss:.4f}, {leap} {spike.expected:.4f}{left_out}",
            f"  {len(self.ranked)} samples, {KEYS[found.logged]}; weights after {found.weights} steps",
        ]
        if found.weights < spike.step:
            told.append("  NOT the weights of that step: what follows is a hint; --forward always trains up to them")
        for rank, each in enumerate(self.ranked[:SHOWN]):
            where = "unknown" if each.origin is None else f"{each.origin.uri} row {each.origin.row}"
            told.append(
                f"  {'*' if rank < len(self.suspects) else ' '} {each.sample.key}  loss {each.sample.loss:8.4f} "
                f"(expected {each.expected:.4f})  adds {each.excess:+.4f}  {each.sample.targets} targets  [{where}]"
            )
        if self.spread:
            told.append(
                f"  spread: it takes {self.blamed} of {len(self.ranked)} samples to make half of the leap, so no "
                f"sample is to blame; look at the steps before {spike.step} (grad_norm, lr)"
            )
        else:
            told.append(f"  to blame (*): {self.blamed} of {len(self.ranked)} samples make half of the leap")
        told += [f"  first not finite: {each}" for each in found.modules]
        return told


KEYS = {True: "the keys of the log", False: "OTHER KEYS than the log's", None: "a step that the log has not"}


def ranked(spike: Spike, found: Replayed) -> Case:
    """The samples of a step by what each adds to its loss beyond what was expected, the most first.

    A sample adds weight_i * (loss_i - expected) / sum(weights): an exact division of the step's leap (by tasks, where
    the log tells their losses). Where nothing is known of what to expect, the step's own mean is."""
    fallback = spike.expected if math.isfinite(spike.expected) else found.loss
    suspects = []
    for number, (sample, item) in enumerate(zip(found.samples, found.items, strict=True)):
        expected = spike.tasks.get(sample.task, fallback)
        if sample.finite:
            excess = sample.part - sample.share * expected if sample.targets else 0.0
        else:
            excess = math.inf
        path, origin = _whence(found, item)
        suspects.append(
            Suspect(
                number=number,
                sample=sample,
                expected=expected,
                excess=0.0 if math.isnan(excess) else excess,
                item=item,
                dataset=path,
                origin=origin,
            )
        )
    suspects.sort(key=lambda each: (-each.excess, each.number))
    return Case(spike=spike, found=found, ranked=suspects, blamed=_blamed([each.excess for each in suspects]))


def forget_lines(cases: Sequence[Case]) -> list[str]:
    """The command for each dataset that removes what is to be blamed."""
    keys: dict[Path, dict[str, None]] = {}
    for case in cases:
        for each in case.suspects:
            keys.setdefault(each.dataset, {})[each.sample.key] = None
    return [
        shlex.join(["python", "-m", "mmdata.forget", str(path), "--keys", *found, "--reason", "loss_spike"])
        for path, found in keys.items()
    ]


def _blamed(excesses: Sequence[float]) -> int:
    """How many of the first values, in falling order, make half of the sum of those above 0."""
    infinite = sum(math.isinf(each) for each in excesses)
    if infinite:
        return infinite
    whole, so_far = sum(each for each in excesses if each > 0), 0.0
    for count, each in enumerate(excesses, 1):
        so_far += each
        if so_far >= HALF * whole:
            return count if whole > 0 else len(excesses)
    return len(excesses)


def _whence(found: Replayed, item: Item) -> tuple[Path, Origin | None]:
    dataset = found.stream.datasets[item.dataset]
    path = Path(str(found.stream.spec.sources[item.dataset].path))
    try:
        return path, dataset.sample(item.position, media=False).origin
    except (DataError, RunError, OSError):
        return path, None
