"""One step of a run again, alone: python -m mmtrain.replay RUN --step N, or --quarantine K.

The same packs by the same plan, through the very weights that the run had then: those of the nearest checkpoint before
it, trained up to the step once more (`--forward`). The loss of every sample, and where the first value comes to be that
is not finite. Nothing is written to the run's folder.
"""

from __future__ import annotations

import argparse
import itertools
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import crc32c
import torch

from mmdata import rng
from mmdata.errors import DataError, RunError, SpecError
from mmdata.explain_page.page import render
from mmdata.stream.deal import Deal
from mmdata.stream.loader import Batch, StreamLoader
from mmdata.types import World
from mmtrain import auxiliary, checkpoint, loop, run, sft
from mmtrain.certificate import Strategy
from mmtrain.gate import quarantined
from mmtrain.job import Job
from mmtrain.objective import losses
from mmtrain.optim import lr_factor, optimizer, staged, thaw
from mmtrain.precision import LossScale, autocast
from mmtrain.restore import Restored, adopted, restore
from mmtrain.rows import borders
from mmtrain.spec import TrainSpec
from mmtrain.weighting import step_weights

Forward = Literal["auto", "always", "never"]
"""Whether the steps between the checkpoint and the one that is asked for are taken again."""
SOON = 120.0
"""Seconds that these took by the run's log, up to which `auto` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLoss:
    """Of one sample of the step: its targets and the mean of their losses (not a number where it has none)."""

    key: str
    targets: int
    loss: float

    @property
    def finite(self) -> bool:
        """Whether its loss is; that of a sample without targets counts as such."""
        return not self.targets or math.isfinite(self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a step was, seen alone."""

    step: int
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

    def lines(self) -> list[str]:
        """For a person."""
        log = {True: "the keys of the log", False: "OTHER KEYS than the log's", None: "a step that the log has not"}
        told = [
            f"step {self.step}: {len(self.samples)} samples, {log[self.logged]}; weights after {self.weights} steps",
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
        trained = restored.step == step or forward == "always" or (forward == "auto" and _soon(restored, step))
        batches = (_trained_up_to if trained else _sought)(restored, loader, step, strategy, Path(aside))
        if batches is None:
            raise SpecError(f"--step {step}: the stream ends before it")
        if html is not None:
            html.write_bytes(render(stream, dealt(loader.dealt)))
    weights = [_weights(restored.spec, batch, step) for batch in batches]
    total = sum(float(each.sum()) for each in weights)
    found = [
        _passed(restored, batch, mine, step, strategy, total) for batch, mine in zip(batches, weights, strict=True)
    ]
    return Replayed(
        step=step,
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


def _sought(restored: Restored, loader: StreamLoader, step: int, *_: Any) -> list[Batch] | None:
    """The batches of a step; the model stays as it is."""
    if restored.checkpoint is not None:
        loader.load_state_dict(checkpoint.read_info(restored.checkpoint)["stream"])
    loader.dataset.seek(step)
    return next(loader.steps(), None)


def _trained_up_to(
    restored: Restored, loader: StreamLoader, step: int, strategy: Strategy, folder: Path
) -> list[Batch] | None:
    """The batches of a step, when the model has taken those before it, each as the run took it or left it out; what
    that writes goes to `folder`."""
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
    if restored.checkpoint is not None:
        checkpoint.load(restored.checkpoint, job, check=False)
    for batches in loader.steps():
        if job.step == step:
            return batches
        loop.advance(job, batches)
        job.step += 1
    return None


def dealt(deals: Sequence[Deal]) -> list[Deal]:
    """Those of a step that have a pack."""
    return [deal for deal in deals if deal.pack is not None]


def _weights(spec: TrainSpec, batch: Batch, step: int) -> torch.Tensor:
    progress = step / spec.steps
    return step_weights(
        batch, spec.loss_norm, phases=spec.token_weight_schedule, progress=progress, tasks=spec.task_weights
    )


def _passed(
    restored: Restored, batch: Batch, weights: torch.Tensor, step: int, strategy: Strategy, total: float
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
        _watched(model) as first,
        autocast(batch["input_ids"].device, spec.precision),
        auxiliary.recording() as said,
    ):
        summed, each = losses(model, batch, weights, strategy)
    model.zero_grad(set_to_none=True)
    part = summed / total if total else summed
    whole = part + sum(terms[name].weight * value for name, value in auxiliary.summed(terms, said, units).items())
    if math.isfinite(float(part)):
        whole.backward()
    where = first[0] if first else None
    if where is None:
        bad = (name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
        name = next(bad, None)
        where = None if name is None else f"the gradient of {name}"
    model.zero_grad(set_to_none=True)
    samples = []
    for key, (start, stop) in zip(batch["keys"], itertools.pairwise(borders(batch).tolist()), strict=False):
        mine = weights[start:stop] != 0
        loss = float(each[start:stop][mine].mean()) if mine.any() else math.nan
        samples.append(SampleLoss(key=key, targets=int(mine.sum()), loss=loss))
    return float(part.detach()), samples, where


@contextmanager
def _watched(model: torch.nn.Module) -> Iterator[list[str]]:
    """Tells of the first module whose output is not finite; inner modules come before those that hold them."""
    first: list[str] = []

    def look(name: str, module: torch.nn.Module, output: Any) -> None:
        if first or all(tensor.isfinite().all() for tensor in _tensors(output)):
            return
        bad = [key for key, value in module.named_parameters(recurse=False) if not value.isfinite().all()]
        why = f", whose {' and '.join(bad)} is not finite" if bad else ""
        first.append(f"the output of {name} ({type(module).__name__}){why}")

    hooks = [
        module.register_forward_hook(lambda module, _, output, name=name: look(name, module, output))
        for name, module in model.named_modules()
        if name
    ]
    try:
        yield first
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _logged(folder: Path, step: int, keys: Sequence[str]) -> bool | None:
    line = next((line for line in run.log_lines(folder) if line["step"] == step), None)
    total = sum(crc32c.crc32c(key.encode()) for key in keys)
    return None if line is None else line["keys_crc32c"] == f"{total % 2**32:08x}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0 where all is finite, 3 where something is not, 2 for what cannot be done,
    1 for what failed."""
    parser = argparse.ArgumentParser(prog="python -m mmtrain.replay", description=(__doc__ or "").split(":")[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="this step, as the log counts them")
    which.add_argument("--quarantine", type=int, metavar="K", help="the K-th step (from 0) that the run left out")
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
    parser.add_argument("--html", type=Path, metavar="FILE", help="render its packs as a page")
    options = parser.parse_args(arguments)
    try:
        step = options.step
        if step is None:
            left_out = list(dict.fromkeys(line["step"] for line in quarantined(options.run)))
            if not 0 <= options.quarantine < len(left_out):
                raise SpecError(
                    f"--quarantine {options.quarantine}: the run left out {len(left_out)} steps: {left_out}"
                )
            step = left_out[options.quarantine]
        restored = restore(options.run, options.set, step=step)
        found = replay(restored, step, html=options.html, forward=options.forward)
    except SpecError as error:
        print(f"mmtrain.replay: {error}", file=sys.stderr)
        return 2
    except (RunError, DataError, OSError) as error:
        print(f"mmtrain.replay: {error}", file=sys.stderr)
        return 1
    print("\n".join(found.lines()))
    return 3 if found.modules else 0


if __name__ == "__main__":
    sys.exit(main())
