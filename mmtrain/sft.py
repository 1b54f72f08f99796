"""Supervised fine-tuning: python -m mmtrain.sft --config FILE.

The plan comes first and says what the run will be; then each step takes its packs from the stream, sums their weighted
losses over the step's target weights, and moves the weights once. Kill it at any moment and run the same command
again: it goes on from its last checkpoint with the very same numbers.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mmdata import pointer, specfile, unread
from mmdata.errors import DataError, SpecError
from mmdata.labels import IGNORE
from mmdata.shards.dataset import open_dataset
from mmdata.shards.storage import user_cache, write_atomic
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.device import each_tensor
from mmdata.stream.loader import StreamLoader
from mmdata.stream.position import Position
from mmdata.stream.report import plan_report
from mmdata.types import Packed, World
from mmtrain import (
    adapters,
    anchor,
    auxiliary,
    blocks,
    certificate,
    checkpoint,
    distributed,
    estimate,
    models,
    objective,
    optim,
    quantise,
    rows,
    run,
    sharding,
    stages,
    stopping,
)
from mmtrain.certificate import Strategy
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.distributed import first
from mmtrain.drift import Drift
from mmtrain.ema import PART, Ema
from mmtrain.initialise import initialise
from mmtrain.inspect_packs import PAGE, show_packs
from mmtrain.job import Job
from mmtrain.loop import say, train
from mmtrain.models import heads
from mmtrain.optim import lr_factor, optimizer
from mmtrain.precision import LossScale, autocast, device_of, place
from mmtrain.preference import begin as preference
from mmtrain.rules import Setting, resolve, table
from mmtrain.spec import TrainSpec
from mmtrain.tokenizer import load_or_make
from mmtrain.tokenizer import make as make_tokenizer

CHECKED_SAMPLES = 3


@unread.goes_on
def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for a run that failed, 2 for a config that is wrong, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m mmtrain.sft", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", required=True, metavar="FILE", help="a YAML file, or the name of a shipped one")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. optim.lr=1e-3")
    parser.add_argument("--resume", default="auto", metavar="auto|never|PATH", help="default: auto")
    parser.add_argument("--stage", metavar="NAME", help="of a config with stages, run this one only")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; nothing is written")
    parser.add_argument("--inspect", type=_some, default=0, metavar="N", help="show the first N packs and stop")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="where --inspect renders them; default: in the output"
    )
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    try:
        spec, _ = specfile.load(TrainSpec, options.config, options.set)
        for each in spec.runs or (spec,):
            stopping.check(each.early_stopping, each.evaluation)
        world = distributed.join(spec.distributed)
        with distributed.connected(world):
            how: dict[str, Any] = {"resume": options.resume, "dry_run": options.dry_run, "inspect": options.inspect}
            how["html"] = options.html
            if not spec.stages and options.stage is None:
                code = sft(spec, **how, world=world)
                if world.rank == 0 and not options.dry_run and not options.inspect:
                    print(*following(spec), sep="\n")
                return code
            return stages.run_stages(
                spec,
                lambda stage, before: sft(stage, **how, world=world, before=before),
                only=options.stage,
                dry=options.dry_run or options.inspect > 0,
            )
    except pointer.ENDINGS as error:
        return pointer.failed("mmtrain.sft", error, again="the same command goes on from the last checkpoint")
    finally:
        run.release()
        distributed.leave()


def _some(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: give a number from 1 on")
    return int(text)


def sft(
    spec: TrainSpec,
    *,
    resume: str = "auto",
    dry_run: bool = False,
    inspect: int = 0,
    html: Path | None = None,
    world: World | None = None,
    before: stages.Before | None = None,
) -> int:
    """Run a spec, as one of the processes of `world`; a stage starts from the run `before`. Raises SpecError,
    RunError or DataError."""
    world = world or World()
    folder = Path(spec.output)
    datasets = [open_dataset(source.path, integrity=spec.data.integrity) for source in spec.data.sources]
    source, tokens = models.tokenizer_source(spec.model), models.media_tokens(spec.model)
    start: Path | None = None
    if dry_run or inspect:
        tokenizer = make_tokenizer(datasets[0], spec.tokenizer, source, tokens)
    else:
        binding = run.binding(spec, [dataset.manifest.root_digest for dataset in datasets])
        if before is not None:
            binding |= stages.bound_to(before)
        start = first(lambda: run.open_run(folder, binding, resume), world)
        own = folder / run.TOKENIZER
        if before is not None:
            stages.take_tokenizer(before.folder, own, world)
        tokenizer = first(lambda: load_or_make(own, datasets[0], spec.tokenizer, source, tokens), world)
    spec = models.with_template(spec, tokenizer, datasets[0])
    stream = make_stream(spec, tokenizer, world, None if dry_run or inspect else folder / run.STREAM)
    if inspect:
        show_packs(stream, inspect, html or folder / PAGE)
        return 0
    device = device_of(spec.device)
    model = models.build(spec.model, tokenizer, seed=spec.seed)
    models.check_positions(model, spec.data.longest)
    models.tell_ends(model, stream)
    if not dry_run:
        first(lambda: models.keep(folder / run.MODEL, spec.model, model), world)
    begun = [] if before is None else [stages.take_weights(before, spec, model, equipped=False)]
    model = place(model, device, spec.params)
    kept = None if dry_run else folder
    told = adapters.equip(
        spec, model, world=world, folder=kept, start=start, data=lambda n: measured_on(spec, model, tokenizer, n)
    )
    coarse = quantise.install(model, spec.quantise_aware)
    quantise.check(spec.quantise_aware, cast=sharding.casts(spec.distributed, model, world, spec.precision))
    begun += [] if before is None else [stages.take_weights(before, spec, model, equipped=True)]
    written = initialise(model, spec.initialise, seed=spec.seed)  # a checkpoint may hold only what was trained since
    begun += written if start is None else []
    blocks.check_chance(model, spec.packs_per_forward)
    settings = resolve(spec.parameters, list(aliases(model).values()), adapters.defaults(model))
    optim.grouped(model, spec.optim, settings)  # what it refuses is said now, by a dry run too
    anchored = anchor.hold(model, spec.anchor)
    terms = auxiliary.declared(model, spec.auxiliary)
    trained = [name for name, setting in settings.items() if setting.train]
    objective.check(model, trained, spec.packs_per_forward)
    heads.check_carried(model, spec.data.carry, trained)
    if world.rank == 0:
        if dry_run:  # it is long: what it comes to stands below, at the end
            print(f"config {spec.model_dump_json(indent=1, exclude_unset=False)}")
        print(plan(spec, stream, model))
        tables = [parameter_table(spec, model, settings), told, adapters.table(model)]
        print(*filter(None, [*tables, *coarse, *begun]), sep="\n")
        for name, term in terms.items():
            print(f"beside     {name}: its mean over each {term.per}, times {term.weight:g}")
        if anchored is not None:
            print(anchored)
    if dry_run:
        if world.rank == 0:
            padding: Any = tokenizer.pad_token_id
            print(*estimate.lines(spec, model, settings, stream, padding), sep="\n")
        return 0
    strategy = first(lambda: certified(spec, model, stream), world)
    certificate.adopt(model, strategy)
    blocks.recompute(model, spec.activation_checkpointing)
    if spec.compile:
        blocks.compile_layers(model)
    compared = preference.streams(spec, stream) if spec.preference is not None else {}
    known = preference.identities(spec, model, compared)
    base = checkpoint.base_digest(model, settings) if spec.checkpoint.weights == "trained" else None
    sharded = sharding.shard(model, spec.distributed, world, spec.precision)
    job = Job(
        spec=spec,
        world=world,
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        settings=settings,
        optim=optimizer(model, spec.optim, settings, factor=lr_factor(spec.optim, spec.global_batch)),
        loader=make_loader(spec, stream, tokenizer, strategy, every_medium=sharded),
        strategy=strategy,
        terms=terms,
        config=binding,
        base=base,
    )
    if spec.precision == "fp16":
        job.parts["loss_scale"] = LossScale()
    if spec.ema is not None:
        job.parts[PART] = Ema(model, settings, spec.ema)
    if anchored is not None:
        job.parts["anchor"] = anchored
    if spec.watch.drift is not None:
        pad: Any = tokenizer.pad_token_id
        job.parts["drift"] = Drift(spec.watch.drift, model, stream, strategy, pad)
    if spec.preference is not None:
        asked = functools.partial(make_loader, spec, tokenizer=tokenizer, strategy=strategy, every_medium=sharded)
        take, evaluated, how = preference.begin(job, compared, known, asked)
        say(world, "\n".join(how))
        train(job, start, take=take, evaluated=evaluated)
    else:
        train(job, start)
    wrote = adapters.finish(model, settings, folder, world=world)
    if world.rank == 0:
        print(*wrote, sep="\n", end="\n" if wrote else "")
    return 0


def following(spec: TrainSpec) -> list[str]:
    """What to do with a run that has come to its end."""
    evaluation = "" if spec.evaluation is not None else " --data NAME=DATASET"
    beside = any(each.kind in ("prefix", "bottleneck") for each in spec.adapters)
    merged = " (adapters merged into it)" if spec.adapters else ""
    return [
        f"next   python -m mmtrain.evaluate {spec.output}{evaluation} --html FILE    its answers as a page",
        f"next   python -m mmtrain.export {spec.output} --output FOLDER"
        + (
            " --adapters keep    a Hugging Face model, and its adapters beside it"
            if beside
            else f"    a Hugging Face model{merged}"
        ),
    ]


def measured_on(spec: TrainSpec, model: Any, tokenizer: PreTrainedTokenizerBase, batches: int) -> Any:
    """What `adapter_ranks` looks at: how the model is told of borders, and the first packs of the stream."""
    stream = make_stream(spec, tokenizer, World(), None)
    strategy = certified(spec, model, stream)
    certificate.adopt(model, strategy)
    return strategy, itertools.islice(make_loader(spec, stream, tokenizer, strategy), batches)


def make_stream(
    spec: TrainSpec, tokenizer: PreTrainedTokenizerBase, world: World, folder: Path | None
) -> StreamingDataset:
    """The stream of a spec; `folder` keeps what its states refer to."""
    family = models.family_of(spec.model, tokenizer)
    return StreamingDataset(spec.data, family=family, global_batch=spec.global_batch, world=world, run_folder=folder)


def make_loader(
    spec: TrainSpec,
    stream: StreamingDataset,
    tokenizer: PreTrainedTokenizerBase,
    strategy: Strategy = "varlen",
    *,
    every_medium: bool = False,
) -> StreamLoader:
    """The stream as batches, of rows that the strategy allows; with `every_medium`, as a sharded model wants them."""
    bound_tokenizer: Any = tokenizer
    if every_medium and strategy == "single" and spec.collate == "packed" and stream.family and stream.family.media:
        raise SpecError(
            "collate: packed: rows of a sharded model get a segment with each medium, and this model must not be given "
            "packed rows; set collate: auto, or distributed.mode: ddp"
        )
    if every_medium and spec.max_tokens_per_forward is not None:
        raise SpecError(
            "max_tokens_per_forward: ranks would take different numbers of passes, and shards wait for each other in "
            "each; leave it out (packs_per_forward alone is the same on all), or set distributed.mode: ddp"
        )
    collate = rows.collator(spec.collate, strategy, bound_tokenizer.pad_token_id)
    return StreamLoader(
        stream,
        sharding.EveryMedium.of(collate, stream.family) if every_medium and stream.family is not None else collate,
        batch_size=spec.packs_per_forward,
        batch_tokens=spec.max_tokens_per_forward,
        threads=spec.threads,
        device=device_of(spec.device),
    )


def certified(spec: TrainSpec, model: Any, stream: StreamingDataset) -> Strategy:
    """How the model is to be told of the borders in a row, by its certificate: a known one, or one that is made now.

    Padded rows need none. Raises SpecError for a stream that packs samples for a model that mixes them up."""
    if spec.collate == "padded":
        return "single"
    device = device_of(spec.device)
    planned = stream.planner.block(Position()).measured.plans
    kinds = {plan.kind for plans in planned for plan in plans}
    with autocast(device, spec.precision):
        path, found = certificate.cached(model, user_cache("certificates"), kinds)
    if found is None:
        single = spec.data.model_copy(update={"pairs": False})
        alone = StreamingDataset(single, family=stream.family, yields="encoded", world=World())
        usable = (p for p in alone if isinstance(p, Packed) and not p.masked and (p.labels != IGNORE).any())
        collate = PackedCollator()
        with autocast(device, spec.precision):
            found = certificate.certify(
                model,
                certificate.chosen(usable, kinds, count=CHECKED_SAMPLES),
                lambda packs: dict(each_tensor(collate(packs), lambda tensor: tensor.to(device))),
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, found.to_json().encode())
        except OSError as error:  # a home that is full or read-only is no reason not to train
            print(f"check  the certificate is not kept, and will be made again: {error}")
    print(f"check  {found}")
    rows.check(found, spec.data, spec.collate, spec.packs_per_forward)
    return found.strategy


def plan(spec: TrainSpec, stream: StreamingDataset, model: torch.nn.Module) -> str:
    """The arithmetic of the run, from its first planned block."""
    paths = ", ".join(source.path for source in stream.spec.sources)
    report = plan_report(stream.planner, stream.world.ranks, spec.global_batch)
    if not report.packs:
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(report.left_out.items()))
        longer = f"; data.max_length is {spec.data.max_length}: raise it" if "overlong" in report.left_out else ""
        raise DataError("no_packs", f"no sample of {paths} can be packed: {left or 'it has none'}{longer}")
    parameters = sum(p.numel() for p in model.parameters())
    wanted = spec.steps * spec.global_batch
    passes = wanted / (report.packs * stream.planner.blocks)
    epochs = "" if stream.spec.weighted else f" = {passes:.1f} epochs"
    if epochs and passes > 1.05 * (spec.data.epochs or math.inf):  # rates would not come down
        epochs += f"; data.epochs: {spec.data.epochs} ends it before"
    most = spec.max_tokens_per_forward
    at_most = "" if most is None else f", of {most:,} tokens at most"
    return "\n".join(
        [
            f"data   {sum(map(len, stream.datasets)):,} samples in {paths}",
            *report.lines(),
            f"step   {spec.global_batch} packs = {spec.global_batch * report.tokens / report.packs:,.0f} tokens"
            f"; {stream.world.ranks} ranks, {spec.packs_per_forward} packs per forward pass{at_most}",
            f"run    {spec.steps:,} steps = {wanted:,} packs{epochs}",
            f"model  {type(model).__name__}, {parameters / 1e6:.2f} M parameters",
            f"using  {device_of(spec.device)}, {spec.precision} on {spec.params} weights",
            *rate_lines(spec),
        ]
    )


def rate_lines(spec: TrainSpec) -> list[str]:
    """What is to be known of rates: a warm-up that never ends, and how they follow the batch where they do."""
    scale = spec.optim.scale_lr
    short = [
        f"rates  rise over {spec.optim.warmup_steps:,} steps (optim.warmup_steps), and the run ends before the peak"
    ]
    told = short if spec.optim.warmup_steps > spec.steps else []
    if scale is None:
        return told
    factor = lr_factor(spec.optim, spec.global_batch)
    ratio = f"{spec.global_batch} / {scale.reference_batch} packs"
    return [*told, f"rates  all times {factor:.4g}, by the {scale.rule} rule for {ratio}; those below are scaled"]


def parameter_table(spec: TrainSpec, model: torch.nn.Module, settings: Mapping[str, Setting]) -> str:
    """What the rules for parameters come to."""
    named = aliases(model)
    sizes = {named[name]: parameter.numel() for name, parameter in model.named_parameters()}
    factor = lr_factor(spec.optim, spec.global_batch)
    scaled = {n: replace(s, lr=None if s.lr is None else s.lr * factor) for n, s in settings.items()}
    return table(scaled, sizes, lr=spec.optim.lr * factor)


if __name__ == "__main__":
    sys.exit(main())
