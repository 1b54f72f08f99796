"""Supervised fine-tuning: python -m mmtrain.sft --config FILE.

The plan comes first and says what the run will be; then each step takes its packs from the stream, sums their weighted
losses over the step's target weights, and moves the weights once. Kill it at any moment and run the same command
again: it goes on from its last checkpoint with the very same numbers.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import crc32c
import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mmdata import rng, specfile
from mmdata.errors import DataError, RunError, SpecError
from mmdata.families import get_family
from mmdata.labels import IGNORE
from mmdata.shards.dataset import open_dataset
from mmdata.shards.storage import user_cache, write_atomic
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.loader import Batch, StreamLoader
from mmdata.stream.report import plan_report
from mmdata.types import Packed, World
from mmtrain import certificate, checkpoint, distributed, run
from mmtrain.certificate import Strategy
from mmtrain.checkpoint import Progress
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.distributed import add_gradients, first, sums
from mmtrain.inspect_packs import describe_pack
from mmtrain.losses import Norm
from mmtrain.model import build, loss_sum, target_weights
from mmtrain.optim import optimizer, schedule, set_rates, thaw
from mmtrain.rules import Setting, resolve, table
from mmtrain.spec import TrainSpec
from mmtrain.tokenizer import load_or_train, train

CONSOLE_LINES = 20
CHECKED_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one optimiser step did."""

    loss: float
    """Weighted mean cross-entropy of the step's targets, in nats."""
    grad_norm: float
    weight: float


def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for a run that failed, 2 for a config that is wrong, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m mmtrain.sft", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. optim.lr=1e-3")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="default: auto")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; nothing is written")
    parser.add_argument("--inspect", type=int, default=0, metavar="N", help="print the first N packs and stop")
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    world = distributed.join()
    try:
        spec, _ = specfile.load(TrainSpec, options.config, options.set)
        return sft(spec, resume=options.resume, dry_run=options.dry_run, inspect=options.inspect, world=world)
    except SpecError as error:
        print(f"mmtrain.sft: {error}", file=sys.stderr)
        return 2
    except (RunError, DataError, OSError) as error:
        print(f"mmtrain.sft: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmmtrain.sft: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    finally:
        distributed.leave()


def sft(
    spec: TrainSpec, *, resume: str = "auto", dry_run: bool = False, inspect: int = 0, world: World | None = None
) -> int:
    """Run a spec, as one of the processes of `world`. Raises SpecError, RunError or DataError."""
    world = world or World()
    folder = Path(spec.output)
    datasets = [open_dataset(source.path, integrity=spec.data.integrity) for source in spec.data.sources]
    start: Path | None = None
    if dry_run or inspect:
        tokenizer = train(datasets[0], spec.tokenizer)
    else:
        binding = run.binding(spec, [dataset.manifest.root_digest for dataset in datasets])
        start = first(lambda: run.open_run(folder, binding, resume), world)
        tokenizer = first(lambda: load_or_train(folder / run.TOKENIZER, datasets[0], spec.tokenizer), world)
    loader = make_loader(spec, tokenizer, world, None if dry_run or inspect else folder / run.STREAM)
    if inspect:
        for _, batch in zip(range(inspect), loader, strict=False):
            print(describe_pack(batch, tokenizer))
        return 0
    model = build(spec.model, tokenizer, seed=spec.seed)
    settings = resolve(spec.parameters, list(aliases(model).values()))
    if world.rank == 0:
        print(plan(spec, loader.dataset, model))
        print(parameter_table(spec, model, settings))
    if dry_run:
        return 0
    strategy = first(lambda: certified(spec, model, loader), world)
    certificate.adopt(model, strategy)
    train_loop(spec, model, settings, loader, start, strategy)
    return 0


def make_loader(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, world: World, folder: Path | None) -> StreamLoader:
    """The stream of a spec, as batches; `folder` keeps what its states refer to."""
    image = {"size": spec.model.image_size, "patch": spec.model.patch_size}
    bound_tokenizer: Any = tokenizer
    family = get_family(spec.model.family, tokenizer=bound_tokenizer, image=image)
    stream = StreamingDataset(spec.data, family=family, global_batch=spec.global_batch, world=world, run_folder=folder)
    return StreamLoader(stream, PackedCollator(pad_id=bound_tokenizer.pad_token_id), threads=spec.threads)


def certified(spec: TrainSpec, model: Any, loader: StreamLoader) -> Strategy:
    """How the model is to be told of the borders in a row, by its certificate: a known one, or one that is made now.

    Raises SpecError for a stream that packs samples for a model that mixes them up."""
    path, found = certificate.cached(model, user_cache("certificates"))
    if found is None:
        alone = StreamingDataset(spec.data, family=loader.dataset.family, yields="encoded", world=World())
        usable = (p for p in alone if isinstance(p, Packed) and not p.masked and (p.labels != IGNORE).any())
        found = certificate.certify(model, list(itertools.islice(usable, CHECKED_SAMPLES)), PackedCollator())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, found.to_json().encode())
    print(f"check  {found}")
    if found.strategy == "single" and spec.data.packing != "none":
        raise SpecError(f"data.packing: {spec.data.packing}: {found}; set data.packing: none")
    return found.strategy


def plan(spec: TrainSpec, stream: StreamingDataset, model: torch.nn.Module) -> str:
    """The arithmetic of the run, from its first planned block."""
    paths = ", ".join(source.path for source in stream.spec.sources)
    report = plan_report(stream.planner, stream.world.ranks, spec.global_batch)
    if not report.packs:
        raise DataError("no_packs", f"no sample of {paths} can be packed: {report.left_out}")
    parameters = sum(p.numel() for p in model.parameters())
    wanted = spec.steps * spec.global_batch
    epochs = "" if stream.spec.weighted else f" = {wanted / (report.packs * stream.planner.blocks):.1f} epochs"
    return "\n".join(
        [
            f"data   {sum(map(len, stream.datasets)):,} samples in {paths}",
            *report.lines(),
            f"step   {spec.global_batch} packs = {spec.global_batch * report.tokens / report.packs:,.0f} tokens",
            f"run    {spec.steps:,} steps = {wanted:,} packs{epochs}",
            f"model  {spec.model.family}, {parameters / 1e6:.2f} M parameters",
        ]
    )


def parameter_table(spec: TrainSpec, model: torch.nn.Module, settings: Mapping[str, Setting]) -> str:
    """What the rules for parameters come to."""
    named = aliases(model)
    sizes = {named[name]: parameter.numel() for name, parameter in model.named_parameters()}
    return table(settings, sizes, lr=spec.optim.lr)


def train_loop(
    spec: TrainSpec,
    model: Any,
    settings: Mapping[str, Setting],
    loader: StreamLoader,
    start: Path | None,
    strategy: Strategy,
) -> None:
    """Steps from the checkpoint (or the beginning) to the end, with log and checkpoints."""
    folder, world = Path(spec.output), loader.dataset.world
    optim = optimizer(model, spec.optim, settings)
    staged = any(setting.freeze_until or not setting.train for setting in settings.values())
    step = 0
    if start is not None:
        progress = checkpoint.load(start, model, optim)
        loader.load_state_dict(progress.stream)
        step = progress.step
        say(world, f"resume from {start}: {step} of {spec.steps} steps are done")
    log = run.Log(folder, step) if world.rank == 0 else None
    began, done, loss, saved = time.monotonic(), step, math.nan, step

    def save() -> None:
        progress = Progress(step=step, stream=loader.state_dict())
        first(lambda: checkpoint.save(folder, model, optim, progress, keep=spec.keep), world)

    try:
        for batches, waited in _timed(loader.steps()):
            if step >= spec.steps:
                break
            factor = schedule(step, spec.steps, spec.optim)
            started = time.monotonic()
            model.train()
            if staged:
                thaw(model, settings, step / spec.steps)
            result = train_step(
                model,
                optim,
                batches,
                factor=factor,
                clip=spec.optim.clip,
                norm=spec.loss_norm,
                strategy=strategy,
                seed=spec.seed,
                step=step,
                world=world,
            )
            values = _values(step, result, batches, spec.optim.lr * factor, loader)
            values |= {"wait_seconds": round(waited, 4), "step_seconds": round(time.monotonic() - started, 4)}
            if log is not None:
                log.write(values)
            loss = result.loss
            if step % max(1, spec.steps // CONSOLE_LINES) == 0 or step + 1 == spec.steps:
                say(world, f"step {step:5d}  loss {loss:7.4f}  lr {values['lr']:.2e}  tokens {values['tokens']:,}")
            step += 1
            if step % spec.save_every == 0 or step == spec.steps:
                save()
                saved = step
            if step == spec.steps:
                break
        if done < step < spec.steps:
            say(world, f"the stream ended after {step} steps (data.epochs: {spec.data.epochs})")
        if step > saved:
            save()
    finally:
        if log is not None:
            log.close()
    if step == done:
        say(world, f"nothing left to do: {step} of {spec.steps} steps were done before")
    elif log is not None:
        seconds = time.monotonic() - began
        print(f"done   {step - done} steps in {seconds:.1f} s; loss {log.first:.4f} -> {loss:.4f}; run folder {folder}")
    if loader.bad and step > done:
        print(f"masked {sum(loader.bad.values())} samples that could not be read: {dict(loader.bad)}")


def say(world: World, line: str) -> None:
    """A line on the console, from one rank."""
    if world.rank == 0:
        print(line, flush=True)


def train_step(
    model: Any,
    optim: torch.optim.Optimizer,
    batches: list[Batch],
    *,
    factor: float,
    clip: float,
    norm: Norm,
    strategy: Strategy,
    seed: int,
    step: int,
    world: World,
) -> Step:
    """One optimiser step over all packs of a global step, at `factor` of every group's peak rate.

    The loss is the sum over all packs of all ranks divided by the weights of all of them, so it does not depend on how
    targets are spread over packs, or packs over ranks; nor do dropout's draws, which are keyed by step and pack. A step
    without targets moves nothing. Raises RunError, on every rank and before anything moved, for a loss or gradient that
    is not finite.
    """
    (total,) = sums([float(sum(target_weights(batch, norm).sum() for batch in batches))], world)
    if not total:
        return Step(loss=0.0, grad_norm=0.0, weight=0.0)
    optim.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in batches:
        torch.manual_seed(int(rng.generator("step", seed, step, *batch["keys"]).integers(2**63)))
        summed, _ = loss_sum(model, batch, norm, strategy)
        part = summed / total
        part.backward()
        loss += float(part.detach())
    add_gradients(model.parameters(), world)
    (loss,) = sums([loss], world)
    length = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    if not (math.isfinite(loss) and math.isfinite(length)):
        keys = [key for batch in batches for key in batch["keys"]]
        raise RunError(f"step {step}: loss {loss}, gradient norm {length}; the weights were not moved. Samples: {keys}")
    set_rates(optim, factor)
    optim.step()
    return Step(loss=loss, grad_norm=length, weight=total)


def _values(step: int, result: Step, batches: list[Batch], lr: float, loader: StreamLoader) -> dict[str, Any]:
    """What the log says of a step, all ranks together. `keys_crc32c` is the sum of the checksums of all samples' keys,
    which is the same however they were dealt."""
    keys = [key for batch in batches for key in batch["keys"]]
    packs, samples, tokens, targets, masked, checksum = sums(
        [
            sum(1 for batch in batches if batch["keys"]),
            len(keys),
            sum(batch["input_ids"].shape[1] for batch in batches if batch["keys"]),
            sum(batch["targets"] for batch in batches),
            sum(loader.bad.values()),
            sum(crc32c.crc32c(key.encode()) for key in keys),
        ],
        loader.dataset.world,
    )
    return {
        "step": step,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": lr,
        "packs": int(packs),
        "samples": int(samples),
        "tokens": int(tokens),
        "targets": int(targets),
        "masked": int(masked),
        "keys_crc32c": f"{int(checksum) % 2**32:08x}",
    }


def _timed(steps: Iterator[list[Batch]]) -> Iterator[tuple[list[Batch], float]]:
    """Each step's batches, and the seconds that the model waited for them."""
    while True:
        started = time.monotonic()
        batches = next(steps, None)
        if batches is None:
            return
        yield batches, time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
