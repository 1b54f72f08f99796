"""Supervised fine-tuning: python -m mmtrain.sft --config FILE.

The plan comes first and says what the run will be; then each step takes its packs from the stream, sums their weighted
losses over the step's target weights, and moves the weights once. Kill it at any moment and run the same command
again: it goes on from its last checkpoint with the very same numbers.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
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
from mmdata.types import Packed
from mmtrain import certificate, checkpoint, run
from mmtrain.certificate import Strategy
from mmtrain.checkpoint import Progress
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
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
    try:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise SpecError("WORLD_SIZE > 1: this version trains on one process")
        spec, _ = specfile.load(TrainSpec, options.config, options.set)
        return sft(spec, resume=options.resume, dry_run=options.dry_run, inspect=options.inspect)
    except SpecError as error:
        print(f"mmtrain.sft: {error}", file=sys.stderr)
        return 2
    except (RunError, DataError, OSError) as error:
        print(f"mmtrain.sft: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmmtrain.sft: stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def sft(spec: TrainSpec, *, resume: str = "auto", dry_run: bool = False, inspect: int = 0) -> int:
    """Run a spec. Raises SpecError, RunError or DataError."""
    folder = Path(spec.output)
    dataset = open_dataset(spec.data.dataset, integrity=spec.data.integrity)
    start: Path | None = None
    if dry_run or inspect:
        tokenizer = train(dataset, spec.tokenizer)
    else:
        start = run.open_run(folder, run.binding(spec, dataset.manifest.root_digest), resume)
        tokenizer = load_or_train(folder / run.TOKENIZER, dataset, spec.tokenizer)
    loader = make_loader(spec, tokenizer)
    if inspect:
        for _, batch in zip(range(inspect), loader, strict=False):
            print(describe_pack(batch, tokenizer))
        return 0
    model = build(spec.model, tokenizer, seed=spec.seed)
    settings = resolve(spec.parameters, list(aliases(model).values()))
    print(plan(spec, loader.dataset, model))
    print(parameter_table(spec, model, settings))
    if dry_run:
        return 0
    train_loop(spec, model, settings, loader, start, certified(spec, model, loader))
    return 0


def make_loader(spec: TrainSpec, tokenizer: PreTrainedTokenizerBase) -> StreamLoader:
    """The stream of a spec, as batches."""
    image = {"size": spec.model.image_size, "patch": spec.model.patch_size}
    bound_tokenizer: Any = tokenizer
    family = get_family(spec.model.family, tokenizer=bound_tokenizer, image=image)
    stream = StreamingDataset(spec.data, family=family, global_batch=spec.global_batch)
    return StreamLoader(stream, PackedCollator(pad_id=bound_tokenizer.pad_token_id), threads=spec.threads)


def certified(spec: TrainSpec, model: Any, loader: StreamLoader) -> Strategy:
    """How the model is to be told of the borders in a row, by its certificate; the model is set up for it.

    Raises SpecError for a stream that packs samples for a model that mixes them up."""
    path, found = certificate.cached(model, user_cache("certificates"))
    if found is None:
        alone = StreamingDataset(spec.data, family=loader.dataset.family, yields="encoded")
        usable = (p for p in alone if isinstance(p, Packed) and not p.masked and (p.labels != IGNORE).any())
        found = certificate.certify(model, list(itertools.islice(usable, CHECKED_SAMPLES)), PackedCollator())
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, found.to_json().encode())
    print(f"check  {found}")
    if found.strategy == "single" and spec.data.packing != "none":
        raise SpecError(f"data.packing: {spec.data.packing}: {found}; set data.packing: none")
    certificate.adopt(model, found.strategy)
    return found.strategy


def plan(spec: TrainSpec, stream: StreamingDataset, model: torch.nn.Module) -> str:
    """The arithmetic of the run, from its first planned block."""
    block = stream.block()
    if not block.packs:
        raise DataError("no_packs", f"no sample of {stream.spec.dataset} can be packed: {dict(block.left_out)}")
    tokens = [pack.tokens for pack in block.packs]
    samples = sum(len(pack.items) for pack in block.packs)
    longest = stream.spec.max_length or max(tokens)
    per_step = spec.global_batch * sum(tokens) / len(tokens)
    epoch = len(block.packs) * stream.planner.blocks
    parameters = sum(p.numel() for p in model.parameters())
    left = ", ".join(f"{count} {reason}" for reason, count in sorted(block.left_out.items())) or "none"
    packs = spec.steps * spec.global_batch
    blocks = "the epoch" if stream.planner.blocks == 1 else f"block 1 of {stream.planner.blocks}"
    return "\n".join(
        [
            f"data   {len(stream.dataset):,} samples in {stream.spec.dataset}",
            f"packs  {blocks}: {samples:,} samples, {sum(tokens):,} tokens in {len(tokens):,} packs of {longest:,}, "
            f"{block.fill(longest):.1%} filled; left out: {left}",
            f"step   {spec.global_batch} packs = {per_step:,.0f} tokens",
            f"run    {spec.steps:,} steps = {packs:,} packs = {packs / epoch:.1f} epochs",
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
    folder = Path(spec.output)
    optim = optimizer(model, spec.optim, settings)
    staged = any(setting.freeze_until or not setting.train for setting in settings.values())
    step = 0
    if start is not None:
        progress = checkpoint.load(start, model, optim)
        loader.load_state_dict(progress.stream)
        step = progress.step
        print(f"resume from {start}: {step} of {spec.steps} steps are done")
    log = run.Log(folder, step)
    began, done, loss = time.monotonic(), step, math.nan
    saved = step
    try:
        for batches, waited in _timed(loader.steps()):
            if step >= spec.steps:
                break
            factor = schedule(step, spec.steps, spec.optim)
            lr = spec.optim.lr * factor
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
            )
            values = _values(step, result, batches, lr, waited, time.monotonic() - started, loader)
            log.write(values)
            loss = result.loss
            if step % max(1, spec.steps // CONSOLE_LINES) == 0 or step + 1 == spec.steps:
                print(f"step {step:5d}  loss {loss:7.4f}  lr {lr:.2e}  tokens {values['tokens']:,}", flush=True)
            step += 1
            if step % spec.save_every == 0 or step == spec.steps:
                progress = Progress(step=step, stream=loader.state_dict())
                checkpoint.save(folder, model, optim, progress, keep=spec.keep)
                saved = step
            if step == spec.steps:
                break
        if done < step < spec.steps:
            print(f"the stream ended after {step} steps (data.epochs: {spec.data.epochs})")
        if step > saved:
            checkpoint.save(folder, model, optim, Progress(step=step, stream=loader.state_dict()), keep=spec.keep)
    finally:
        log.close()
    if step == done:
        print(f"nothing left to do: {step} of {spec.steps} steps were done before")
        return
    seconds = time.monotonic() - began
    print(f"done   {step - done} steps in {seconds:.1f} s; loss {log.first:.4f} -> {loss:.4f}; run folder {folder}")
    if loader.bad:
        print(f"masked {sum(loader.bad.values())} samples that could not be read: {dict(loader.bad)}")


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
) -> Step:
    """One optimiser step over all packs of a global step, at `factor` of every group's peak rate.

    The loss is the sum over all packs divided by the weights of all packs, so it does not depend on how targets are
    spread over packs. A step without targets moves nothing. Raises RunError, before anything moved, for a loss or
    gradient that is not finite.
    """
    torch.manual_seed(int(rng.generator("step", seed, step).integers(2**63)))
    total = float(sum(target_weights(batch, norm).sum() for batch in batches))
    if not total:
        return Step(loss=0.0, grad_norm=0.0, weight=0.0)
    optim.zero_grad(set_to_none=True)
    loss = 0.0
    for batch in batches:
        summed, _ = loss_sum(model, batch, norm, strategy)
        part = summed / total
        part.backward()
        loss += float(part.detach())
    length = float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip))
    if not (math.isfinite(loss) and math.isfinite(length)):
        keys = [key for batch in batches for key in batch["keys"]]
        raise RunError(f"step {step}: loss {loss}, gradient norm {length}; the weights were not moved. Samples: {keys}")
    set_rates(optim, factor)
    optim.step()
    return Step(loss=loss, grad_norm=length, weight=total)


def _values(
    step: int, result: Step, batches: list[Batch], lr: float, waited: float, computed: float, loader: StreamLoader
) -> dict[str, Any]:
    tokens = sum(batch["input_ids"].shape[1] for batch in batches)
    keys = [key for batch in batches for key in batch["keys"]]
    return {
        "step": step,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "lr": lr,
        "packs": len(batches),
        "samples": len(keys),
        "tokens": tokens,
        "targets": sum(batch["targets"] for batch in batches),
        "masked": sum(loader.bad.values()),
        "keys_crc32c": f"{crc32c.crc32c(' '.join(keys).encode()):08x}",
        "wait_seconds": round(waited, 4),
        "step_seconds": round(computed, 4),
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
