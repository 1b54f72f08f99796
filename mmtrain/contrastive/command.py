"""`python -m mmtrain.contrastive --config FILE`: from the spec to a run.

Kill it at any moment and run the same command again: it goes on from its last checkpoint with the very same numbers.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from mmdata import pointer, specfile, unread
from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.loader import StreamLoader
from mmdata.stream.report import plan_report
from mmdata.types import World
from mmtrain import checkpoint, distributed, run, stopping
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.contrastive import pairs
from mmtrain.contrastive.build import TOKENIZER, build, tokenizer_source
from mmtrain.contrastive.evaluation import evaluate
from mmtrain.contrastive.momentum import PART as MOMENTUM
from mmtrain.contrastive.momentum import Momentum
from mmtrain.contrastive.siglip2 import original
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.contrastive.spread import Spread
from mmtrain.contrastive.step import SPREAD, train_step
from mmtrain.contrastive.towers import DualEncoder
from mmtrain.distributed import first
from mmtrain.ema import PART as EMA
from mmtrain.ema import Choice, Ema, put_saved
from mmtrain.held_out import held_out
from mmtrain.initialise import initialise
from mmtrain.job import Job
from mmtrain.loop import train
from mmtrain.optim import lr_factor, optimizer
from mmtrain.precision import LossScale, device_of, place
from mmtrain.rules import resolve, table
from mmtrain.tokenizer import IMAGE, load_or_make
from mmtrain.tokenizer import make as make_tokenizer

NAME = "mmtrain.contrastive"


@unread.goes_on
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for a run that failed, 2 for a config that is wrong, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {NAME}",
        description="Train a picture and a text tower on pairs, as CLIP and SigLIP are (also under torchrun).",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. optim.lr=1e-3")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="default: auto")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; nothing is written")
    parser.add_argument(
        "--evaluate", action="store_true", help="measure the run's last checkpoint by `evaluation`, and train nothing"
    )
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help="write the run's last checkpoint as a Hugging Face Siglip2Model"
    )
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    try:
        spec, _ = specfile.load(ContrastiveSpec, options.config, options.set)
        stopping.check(spec.early_stopping, spec.evaluation)
        world = distributed.join(spec.distributed)
        with distributed.connected(world):
            if options.evaluate or options.export is not None:
                if options.export is not None:
                    first(lambda: export(spec, options.export), world)
                return measure(spec, world) if options.evaluate else 0
            return contrastive(spec, resume=options.resume, dry_run=options.dry_run, world=world)
    except pointer.ENDINGS as error:
        return pointer.failed(NAME, error, again="the same command goes on from the last checkpoint")
    finally:
        run.release()
        distributed.leave()


def contrastive(
    spec: ContrastiveSpec, *, resume: str = "auto", dry_run: bool = False, world: World | None = None
) -> int:
    """Run a spec, as one of the processes of `world`. Raises SpecError, RunError or DataError."""
    world = world or World()
    folder, told = Path(spec.output), _as_any(spec)
    datasets = [open_dataset(source.path, integrity=spec.data.integrity) for source in spec.data.sources]
    source = tokenizer_source(spec.model)
    start: Path | None = None
    binding: dict[str, Any] = {}
    if dry_run:
        tokenizer = make_tokenizer(datasets[0], spec.tokenizer, source, (IMAGE,))
    else:
        binding = run.binding(told, [dataset.manifest.root_digest for dataset in datasets])
        start = first(lambda: run.open_run(folder, binding, resume), world)
        own = folder / run.TOKENIZER
        tokenizer = first(lambda: load_or_make(own, datasets[0], spec.tokenizer, source, (IMAGE,)), world)
    model = place(build(spec, tokenizer), device_of(spec.device), spec.params)
    stream = make_stream(spec, model, tokenizer, world, None if dry_run else folder / run.STREAM)
    begun = initialise(model, spec.initialise, seed=spec.seed) if spec.initialise else []
    settings = resolve(spec.parameters, list(aliases(model).values()))
    if world.rank == 0:
        print(plan(spec, stream, model))
        named = aliases(model)
        sizes = {named[name]: parameter.numel() for name, parameter in model.named_parameters()}
        print(table(settings, sizes, lr=spec.optim.lr * lr_factor(spec.optim, spec.global_batch)))
        print(*begun, sep="\n", end="\n" if begun else "")
    if dry_run:
        return 0
    loader: Any = StreamLoader(
        stream, PackedCollator(), batch_size=spec.pairs_per_forward, threads=spec.threads, device=device_of(spec.device)
    )
    job = Job(
        spec=told,
        world=world,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        optim=optimizer(model, spec.optim, settings, factor=lr_factor(spec.optim, spec.global_batch)),
        loader=loader,
        strategy="varlen",
        config=binding,
    )
    job.parts[SPREAD] = Spread(spec.spread)
    if spec.momentum is not None:
        by_words = spec.loss.negatives is not None and spec.loss.negatives.likeness == "words"
        job.parts[MOMENTUM] = Momentum(model, spec.momentum, bags=by_words)
    if spec.precision == "fp16":
        job.parts["loss_scale"] = LossScale()
    if spec.ema is not None:
        job.parts[EMA] = Ema(model, settings, spec.ema)
    train(job, start, take=train_step, evaluated=evaluate)
    return 0


def measure(spec: ContrastiveSpec, world: World) -> int:
    """Evaluate the last checkpoint of a run. Raises SpecError where there is none, or nothing to measure it by."""
    if spec.evaluation is None:
        raise SpecError("evaluation: nothing says what to measure; name data there, or set data.hold_out")
    model, tokenizer, saved = trained(spec, spec.evaluation.weights)
    streams = held_out(_as_any(spec.evaluation), _as_any(spec), family_of(model, tokenizer), world=world)
    found = evaluate(spec.evaluation, streams, spec=spec, model=model, tokenizer=tokenizer, world=world)
    if world.rank == 0:
        print(f"after  {checkpoint.step_of(saved)} steps")
        print(*(f"{name:<40} {value:.4f}" for name, value in found.values.items()), sep="\n")
    return 0


def export(spec: ContrastiveSpec, output: Path) -> None:
    """Write the last checkpoint of a run (averaged weights, where it keeps them) as a `Siglip2Model` with tokenizer and
    image processor. Raises SpecError where there is none, for a folder in use, and for a model that is no SigLIP 2."""
    from transformers import Siglip2ImageProcessor

    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SpecError(f"--export: {output} holds other files; give a new folder")
    model, tokenizer, saved = trained(spec, "auto")
    made = original(model.cpu())
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        made.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary / TOKENIZER)
        told = model.vision.spec
        processor = Siglip2ImageProcessor(patch_size=told.patch, max_num_patches=told.max_patches)
        processor.save_pretrained(temporary)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(f"wrote  {output}: Siglip2Model, step {checkpoint.step_of(saved)} of {spec.steps}")


def trained(spec: ContrastiveSpec, weights: Choice) -> tuple[DualEncoder, Any, Path]:
    """The model of a run's last checkpoint, its tokenizer, and that checkpoint. Raises SpecError where there is
    none."""
    folder = Path(spec.output)
    saved = checkpoint.newest(folder)
    if saved is None:
        raise SpecError(f"output: {folder} holds no checkpoint; train first")
    datasets = [open_dataset(source.path, integrity=spec.data.integrity) for source in spec.data.sources]
    tokenizer = load_or_make(folder / run.TOKENIZER, datasets[0], spec.tokenizer, tokenizer_source(spec.model))
    model: DualEncoder = place(build(spec, tokenizer), device_of(spec.device), spec.params)
    checkpoint.load_weights(saved, model)
    put_saved(saved, model, weights)
    return model, tokenizer, saved


def family_of(model: Any, tokenizer: Any) -> Any:
    """What makes batches for a dual encoder."""
    return pairs.family(model.vision.spec.patch, model.vision.spec.max_patches, tokenizer)


def make_stream(
    spec: ContrastiveSpec, model: Any, tokenizer: Any, world: World, folder: Path | None
) -> StreamingDataset:
    """The stream of a spec; `folder` keeps what its states refer to."""
    return StreamingDataset(
        spec.data, family=family_of(model, tokenizer), global_batch=spec.global_batch, world=world, run_folder=folder
    )


def plan(spec: ContrastiveSpec, stream: StreamingDataset, model: torch.nn.Module) -> str:
    """The arithmetic of the run, from its first planned block. Raises DataError where there is nothing to train on."""
    report = plan_report(stream.planner, stream.world.ranks, spec.global_batch)
    paths = ", ".join(source.path for source in stream.spec.sources)
    if not report.packs:
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(report.left_out.items()))
        raise DataError("no_packs", f"no sample of {paths} is a pair: {left or 'it has none'}")
    what = "pairs" if spec.data.packing == "none" else "packs of pairs"
    share = -(-spec.global_batch // stream.world.ranks)
    passes = -(-share // spec.pairs_per_forward)
    return "\n".join(
        [
            f"data   {sum(map(len, stream.datasets)):,} samples in {paths}",
            f"step   {spec.global_batch} {what}; {stream.world.ranks} ranks, about {share} each in {passes} passes",
            f"run    {spec.steps:,} steps = {spec.steps * spec.global_batch:,} {what}",
            f"model  {type(model).__name__}, {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters",
            f"loss   {spec.loss.kind}, {spec.loss.model_dump_json(exclude_defaults=True, exclude={'kind'})}",
            f"using  {device_of(spec.device)}, {spec.precision} on {spec.params} weights",
        ]
    )


def _as_any(value: Any) -> Any:
    """A contrastive spec has the fields by which the trainer's parts go, though it is no TrainSpec."""
    return value
