"""Steps of a run again, alone: python -m mmtrain.replay RUN --step N, --quarantine K, --spikes [N], or --packs A..B.

The same packs by the same plan, through the very weights that the run had then: those of the nearest checkpoint before
it, trained up to the step once more (`--forward`). The loss of every sample, and where the first value comes to be that
is not finite. `--spikes` finds the steps in the log that stand out, does them again, and writes a page with the samples
that are to blame: pictures, the loss of every token, source rows, and the command that forgets them. `--packs` streams
steps once more without a model. Nothing is written to the run's folder.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import crc32c
import torch

from mmdata import pointer, rng, unread
from mmdata import replay as packs
from mmdata.errors import SpecError
from mmdata.explain_page.page import render
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Deal
from mmdata.stream.loader import Batch, StreamLoader
from mmdata.types import Item, World
from mmtrain import (
    auxiliary,
    certificate,
    checkpoint,
    loop,
    run,
    scheduled_sampling,
    sft,
    spikes,
    suspects,
    suspects_page,
)
from mmtrain.balance import Balance
from mmtrain.balance.weights import balanced
from mmtrain.certificate import Strategy
from mmtrain.gate import quarantined
from mmtrain.job import Job
from mmtrain.not_finite import watched
from mmtrain.objective import losses
from mmtrain.optim import lr_factor, optimizer, staged, thaw
from mmtrain.precision import LossScale, autocast
from mmtrain.preference import step as preference_step
from mmtrain.preference.begin import TRAINED, identities
from mmtrain.preference.reference import Reference, referenced
from mmtrain.restore import Restored, adopted, at, opened, restore
from mmtrain.rows import borders
from mmtrain.spec import TrainSpec
from mmtrain.step import train_step
from mmtrain.weighting import step_weights

Forward = Literal["auto", "always", "never"]
"""Whether the steps between the checkpoint and the one that is asked for are taken again."""
SOON = 120.0
"""Seconds that these took by the run's log, up to which `auto` takes them."""
SPIKES = 5
"""Spikes that are looked at, unless another number is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLoss:
    """Of one sample of the step: its targets and the mean of their losses (not a number where it has none); of a pair
    of answers the loss of the comparison."""

    key: str
    targets: int
    loss: float
    task: str = ""
    share: float = 0.0
    """Of the weights of all targets of the step, 0 to 1."""
    part: float = 0.0
    """What its targets are of the step's loss, in nats: these sum up to it."""
    tokens: tuple[float, ...] = ()
    """The loss of each of its tokens, not a number where nothing is learned."""

    @property
    def finite(self) -> bool:
        """Whether its loss is; that of a sample without targets counts as such."""
        return not self.targets or math.isfinite(self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a step was, seen alone."""

    step: int
    stream: StreamingDataset
    """Of the run, as it was opened for this."""
    deals: list[Deal]
    """The step's packs."""
    weights: int
    """Steps that the weights had taken: fewer than `step` where no checkpoint lies so near and none were taken
    again."""
    loss: float = math.nan
    """Of the step, as its log has it."""
    samples: list[SampleLoss] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    """Of each forward or backward pass that came out not finite, where that began."""
    logged: bool | None = None
    """Whether the samples are those that the run's log counted in this step; None where it has no such line."""

    @property
    def items(self) -> list[Item]:
        """The plan of each of the samples."""
        return [item for deal in self.deals if deal.pack is not None for item in deal.pack.items]

    def lines(self) -> list[str]:
        """For a person."""
        log = suspects.KEYS[self.logged]
        told = [
            f"step {self.step}: {len(self.samples)} samples, {log}; weights after {self.weights} steps",
            f"loss {self.loss:.6f}",
        ]
        if self.weights < self.step:
            told[-1] += f", not the log's, which is of weights after {self.step}: --forward always trains up to them"
        told += [
            f"  {each.key}  {each.targets:5d} targets  loss {each.loss:9.4f}{'' if each.finite else '  <- not finite'}"
            for each in self.samples
        ]
        return told + [f"first not finite: {each}" for each in self.modules or ["nothing"]]


def replay(restored: Restored, step: int, *, html: Path | None = None, forward: Forward = "auto") -> Replayed:
    """Do step `step` of a run again, all its packs in this process, and do not take it. With `forward`, the steps
    before it are taken first, with `restored.model`: `auto` does so where they were done soon. With `html`, its packs
    are rendered as a page. Nothing is written to the run's folder.

    On the CPU, values are those of a run of one process to the bit; others add up in another order. Raises `SpecError`
    where the run or its stream has no such step."""
    if not 0 <= step < restored.spec.steps:
        raise SpecError(f"--step {step}: the run has steps 0 to {restored.spec.steps - 1}")
    with tempfile.TemporaryDirectory() as aside:
        known = Path(aside) / run.STREAM  # what the run knows of bad samples and places, as it is now
        if (restored.folder / run.STREAM).exists():
            shutil.copytree(restored.folder / run.STREAM, known)
        stream = sft.make_stream(restored.spec, restored.tokenizer, World(), known)
        strategy = adopted(restored, stream)
        loader = sft.make_loader(restored.spec, stream, restored.tokenizer, strategy)
        reference = _asked(restored, loader, strategy)
        trained = restored.step == step or forward == "always" or (forward == "auto" and _soon(restored, step))
        ahead = _trained_up_to if trained else _sought
        batches, balance = ahead(restored, loader, step, strategy, Path(aside), reference)
        if batches is None:
            raise SpecError(f"--step {step}: the stream ends before it")
        if html is not None:
            html.write_bytes(render(stream, dealt(loader.dealt)))
    if reference is not None:
        weights = [preference_step.pairs_of(batch).weights for batch in batches]
        total = float(sum(len(preference_step.pairs_of(batch).chosen) for batch in batches))
    else:
        weights = [_weights(restored.spec, batch, step) for batch in batches]
        total = sum(float(each.sum()) for each in weights)
    if balance is not None and total:
        weights, _ = balanced(balance, batches, weights, World())
    found = [
        _passed(restored, batch, mine, step, strategy, total, reference)
        for batch, mine in zip(batches, weights, strict=True)
    ]
    return Replayed(
        step=step,
        stream=stream,
        deals=dealt(loader.dealt),
        weights=step if trained else restored.step,
        loss=sum(part for part, _, _ in found),
        samples=[sample for _, samples, _ in found for sample in samples],
        modules=[module for _, _, module in found if module is not None],
        logged=_logged(restored.folder, step, [key for batch in batches for key in batch["keys"]]),
    )


def _soon(restored: Restored, step: int) -> bool:
    """Whether the steps before this one were done soon, by the log."""
    lines = [line for line in run.log_lines(restored.folder) if restored.step <= line["step"] < step]
    took = sum(line["seconds/load"] + line["seconds/step"] for line in lines)
    return len(lines) == step - restored.step and took <= SOON


def _sought(restored: Restored, loader: StreamLoader, step: int, *_: Any) -> tuple[list[Batch] | None, None]:
    """The batches of a step; the model stays as it is, and what tasks weighed is not known."""
    _recall(restored.folder, loader.dataset, step)
    return next(loader.steps(), None), None


def _asked(restored: Restored, loader: StreamLoader, strategy: Strategy) -> Reference | None:
    """What the reference of a run on pairs says: from its file, or else of the weights that the run began with."""
    spec = restored.spec
    if spec.preference is None:
        return None
    begun = at(spec, restored.tokenizer, restored.folder, None)
    certificate.adopt(begun.model, strategy)
    compared = {TRAINED: loader.dataset}
    known = identities(spec, begun.model, compared)
    make = functools.partial(sft.make_loader, spec, tokenizer=restored.tokenizer, strategy=strategy)
    found, _ = referenced(_job(begun, loader, strategy, restored.folder), known[TRAINED], make)
    return found


def _job(restored: Restored, loader: StreamLoader, strategy: Strategy, folder: Path) -> Job:
    """A run as this process does it again; what it writes goes to `folder`."""
    spec, model, settings = restored.spec, restored.model, restored.settings
    optim = optimizer(model, spec.optim, settings, factor=lr_factor(spec.optim, spec.global_batch))
    job = Job(
        spec=spec,
        world=World(),
        folder=folder,
        model=model,
        tokenizer=restored.tokenizer,
        settings=settings,
        optim=optim,
        loader=loader,
        strategy=strategy,
        terms=auxiliary.declared(model, spec.auxiliary),
        base=checkpoint.base_digest(model, settings) if spec.checkpoint.weights == "trained" else None,
    )
    if spec.precision == "fp16":
        job.parts["loss_scale"] = LossScale()
    return job


def _trained_up_to(
    restored: Restored,
    loader: StreamLoader,
    step: int,
    strategy: Strategy,
    folder: Path,
    reference: Reference | None,
) -> tuple[list[Batch] | None, Balance | None]:
    """The batches of a step, when the model has taken those before it, each as the run took it or left it out, and what
    weighs its tasks; what that writes goes to `folder`."""
    job = _job(restored, loader, strategy, folder)
    take = train_step if reference is None else functools.partial(preference_step.take, reference=reference)
    if restored.checkpoint is not None:
        checkpoint.load(restored.checkpoint, job, check=False)
    _recall(restored.folder, loader.dataset, restored.step)
    for batches in loader.steps():
        if job.step == step:
            return batches, job.balance
        loop.advance(job, batches, take)
        job.step += 1
    return None, None


def _recall(folder: Path, stream: StreamingDataset, step: int) -> None:
    """Start a stream at a step, with what its datasets held then: as the first checkpoint after it knows, or else the
    last before. Samples that were forgotten since keep their places."""
    saved = checkpoint.found(folder)
    before = [each for each in saved if checkpoint.step_of(each) < step]
    after = saved[len(before) :]
    refused: SpecError | None = None
    for known in [*after[:1], *before[-1:]]:
        stream.load_state_dict(checkpoint.read_info(known)["stream"])
        try:
            stream.seek(step)
            return
        except SpecError as error:  # it lies in an epoch that held something else
            refused = error
    if refused is not None:
        raise refused
    stream.seek(step)


def dealt(deals: Sequence[Deal]) -> list[Deal]:
    """Those of a step that have a pack."""
    return [deal for deal in deals if deal.pack is not None]


def _weights(spec: TrainSpec, batch: Batch, step: int) -> torch.Tensor:
    progress = step / spec.steps
    return step_weights(
        batch, spec.loss_norm, phases=spec.token_weight_schedule, progress=progress, tasks=spec.task_weights
    )


def _passed(
    restored: Restored,
    batch: Batch,
    weights: torch.Tensor,
    step: int,
    strategy: Strategy,
    total: float,
    reference: Reference | None,
) -> tuple[float, list[SampleLoss], str | None]:
    """The batch's part of the step's loss, the samples' losses, and where the first value is that is not finite."""
    spec, model = restored.spec, restored.model
    model.train()
    if staged(restored.settings):
        thaw(model, restored.settings, step / spec.steps)
    terms = auxiliary.declared(model, spec.auxiliary)
    units = auxiliary.units(model, batch, weights, terms)
    torch.manual_seed(int(rng.generator("step", spec.seed, step, *batch["keys"]).integers(2**63)))
    with (
        watched(model) as first,
        autocast(batch["input_ids"].device, spec.precision),
        auxiliary.recording(spec.seed, step) as said,
    ):
        if (sampling := spec.scheduled_sampling) is not None:
            never = scheduled_sampling.banned(restored.tokenizer)
            batch = scheduled_sampling.mixed(
                model, batch, weights, strategy, sampling, seed=spec.seed, step=step, never=never
            )
        if reference is None:
            summed, each = losses(model, batch, weights, strategy)
        else:
            assert spec.preference is not None
            pairs = preference_step.pairs_of(batch)
            compared = preference_step.compare(model, batch, pairs, strategy, spec.preference, reference)
            summed, each = compared.summed, compared.tokens
    model.zero_grad(set_to_none=True)
    part = summed / total if total else summed
    whole = part + sum(terms[name].weight * value for name, value in auxiliary.summed(terms, said, units).items())
    if math.isfinite(float(part.detach())) and whole.requires_grad:
        whole.backward()
    where = first[0] if first else None
    if where is None:
        bad = (name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        name = next(bad, None)
        where = None if name is None else f"the gradient of {name}"
    model.zero_grad(set_to_none=True)
    if reference is not None:
        return float(part.detach()), _of_pairs(batch, pairs, compared, total), where
    samples = []
    tasks = batch.get("tasks") or itertools.repeat("")
    for key, task, (start, stop) in zip(
        batch["keys"], tasks, itertools.pairwise(borders(batch).tolist()), strict=False
    ):
        own, weight = each[start:stop], weights[start:stop]
        mine = weight != 0
        samples.append(
            SampleLoss(
                key=key,
                targets=int(mine.sum()),
                loss=float(own[mine].mean()) if mine.any() else math.nan,
                task=task,
                share=float(weight.sum()) / total if total else 0.0,
                part=float((own[mine] * weight[mine]).sum()) / total if total else 0.0,
                tokens=tuple(torch.where(mine, own, math.nan).tolist()),
            )
        )
    return float(part.detach()), samples, where


def _of_pairs(
    batch: Batch, pairs: preference_step.Pairs, compared: preference_step.Compared, total: float
) -> list[SampleLoss]:
    """Of each segment but the rejected answers a sample: a pair, whose loss is that of the comparison and whose tokens
    are those of both answers; or what is none, and weighs nothing."""
    lost = dict(zip(pairs.chosen.tolist(), compared.losses.detach().tolist(), strict=True))
    ends, found = borders(batch).tolist(), []
    for place, key in enumerate(batch["keys"]):
        if place - 1 in lost:
            continue
        start, stop = ends[place], ends[place + 2 if place in lost else place + 1]
        mine = pairs.weights[start:stop] != 0
        found.append(
            SampleLoss(
                key=key,
                targets=int(mine.sum()),
                loss=lost.get(place, math.nan),
                share=1 / total if place in lost else 0.0,
                part=lost[place] / total if place in lost else 0.0,
                tokens=tuple(torch.where(mine, compared.tokens[start:stop], math.nan).tolist()),
            )
        )
    return found


def _logged(folder: Path, step: int, keys: Sequence[str]) -> bool | None:
    line = next((line for line in run.log_lines(folder) if line["step"] == step), None)
    total = sum(crc32c.crc32c(key.encode()) for key in keys)
    return None if line is None else line["keys_crc32c"] == f"{total % 2**32:08x}"


def investigate(
    folder: Path, overrides: Sequence[str] = (), *, most: int = 0, forward: Forward = "auto"
) -> list[suspects.Case]:
    """The steps of a run's log that stand out, the greatest leap first, each done again and its samples ranked: those
    that `spikes.RULE` calls spikes (`SPIKES` at most), or the `most` that stand out, spikes or not. Raises SpecError
    for a run without a log."""
    lines = run.log_lines(folder)
    if not lines:
        raise SpecError(f"{folder} holds no log of a run: {run.METRICS} is missing or empty")
    found = spikes.spikes(lines)
    chosen = found[:most] if most else [each for each in found if each.leaps][:SPIKES]
    return [
        suspects.ranked(each, replay(restore(folder, overrides, step=each.step), each.step, forward=forward))
        for each in chosen
    ]


@unread.goes_on
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0 where all is finite (and as in the log), 3 where something is not, 2 for
    what cannot be done, 1 for what failed."""
    parser = argparse.ArgumentParser(
        prog="python -m mmtrain.replay",
        description=(__doc__ or "").split(":")[0],
        epilog=f"The rule of --spikes: {spikes.RULE}. Samples are ranked by weight * (loss - expected) / weights of "
        "the step: what each adds to the step's loss beyond what the running median of its task lets expect.",
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="this step, as the log counts them")
    which.add_argument("--quarantine", type=int, metavar="K", help="the K-th step (from 0) that the run left out")
    which.add_argument(
        "--spikes",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help=f"find the steps whose loss leaps (the {SPIKES} greatest at most; with N, the N that stand out most), do "
        "each again, rank its samples, and write a page with those to blame",
    )
    which.add_argument(
        "--packs", metavar="A..B", help="stream these steps again without a model, and compare with the log"
    )
    parser.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. where data lie"
    )
    parser.add_argument(
        "--forward",
        choices=get_args(Forward),
        default="auto",
        help="train from the checkpoint before up to the step, so that losses are the log's; default: auto, where the "
        f"log says that it takes {SOON:.0f} s at most",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="render its packs as a page; of --spikes by default RUN-spikes.html, here",
    )
    packs.add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        return _answer(options)
    except pointer.ENDINGS as error:
        return pointer.failed("mmtrain.replay", error)


def _answer(options: argparse.Namespace) -> int:
    if options.packs is not None:
        return _packs(options)
    if options.spikes is not None:
        return _spikes(options)
    step = options.step
    if step is None:
        left_out = list(dict.fromkeys(line["step"] for line in quarantined(options.run)))
        if not 0 <= options.quarantine < len(left_out):
            raise SpecError(f"--quarantine {options.quarantine}: the run left out {len(left_out)} steps: {left_out}")
        step = left_out[options.quarantine]
    found = replay(restore(options.run, options.set, step=step), step, html=options.html, forward=options.forward)
    print("\n".join(found.lines()))
    return 3 if found.modules else 0


def _spikes(options: argparse.Namespace) -> int:
    cases = investigate(options.run, options.set, most=options.spikes, forward=options.forward)
    if not cases:
        print(
            f"{options.run}: no step leaps out; --spikes N looks at the N that stand out most. The rule: {spikes.RULE}"
        )
        return 0
    for case in cases:
        print("\n".join(case.lines()))
    page = options.html or Path(f"{options.run.resolve().name}-spikes.html")
    page.write_bytes(suspects_page.render(options.run, run.log_lines(options.run), cases))
    print(f"page   {page}")
    for line in suspects.forget_lines(cases):
        print(f"forget {line}")
    return 3 if any(case.found.modules for case in cases) else 0


def _packs(options: argparse.Namespace) -> int:
    """The stream of a run as it was, one rank's, without its model."""
    first, last = packs.parse_steps(options.packs)
    spec, tokenizer = opened(options.run, options.set)
    with tempfile.TemporaryDirectory() as aside:
        stream = sft.make_stream(spec, tokenizer, World(), packs.known_to(options.run / run.STREAM, Path(aside)))
        _recall(options.run, stream, first)
        log = options.run / run.METRICS
        same = packs.run(stream, first, last, log=log, output=options.output, record=options.record)
    return 0 if same else 3


if __name__ == "__main__":
    sys.exit(main())
