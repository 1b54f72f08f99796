"""Evaluate a run, or the folder of an exported model: python -m mmtrain.evaluate RUN|FOLDER --data NAME=DATASET.

Losses over held-out data by task, answers and what they are worth, how fast the model answers, how large it is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from mmdata import pointer, specfile, unread
from mmdata.boxes import FORMATS
from mmdata.errors import SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed, World
from mmtrain import adapters, ema, export, models, run
from mmtrain.adapters.export import TARGETS
from mmtrain.answers import continued, generating, prompt_of, prompts
from mmtrain.held_out import EvaluationSpec, Found, evaluate, held_out, undisturbed
from mmtrain.metrics import OF_BOXES, Metric
from mmtrain.precision import autocast, device_of, place
from mmtrain.restore import Restored, adopted, restore
from mmtrain.samples_page import render
from mmtrain.spec import TrainSpec

OF_TRAINING = {"dataset", "datasets", "schedule", "views", "weigh_by", "hold_out", "part", "pairs"}
"""What of the training's stream does not hold for other data."""
SPEED_SAMPLES = 4
"""Prompts that the speed is measured on; one more warms up."""


def opened(
    folder: Path, at: str, overrides: Sequence[str], data: StreamSpec | None, weights: ema.Choice = "auto"
) -> Restored:
    """A run with the weights of a checkpoint, or an exported model with the adapters that lie beside it, which wants
    `data`. Raises SpecError for others."""
    if (folder / run.SPEC).is_file():
        start = export.chosen(folder, at)
        restored = restore(folder, overrides, start=start)
        ema.put_saved(start, restored.model, weights)
        return restored
    if not (folder / "config.json").is_file():
        raise SpecError(f"{folder} holds neither a run ({run.SPEC}) nor an exported model (config.json)")
    if data is None:
        raise SpecError("--data: an exported model does not know any; give NAME=DATASET or NAME=STREAM.yaml")
    native = str(json.loads((folder / "config.json").read_text()).get("model_type", "")).startswith("mmtrain_")
    told = {"kind": "native" if native else "hf", "path": str(folder.absolute())}
    spec = TrainSpec.model_validate({"data": data.model_dump(exclude_unset=True), "model": told, "output": str(folder)})
    spec = specfile_set(spec, overrides)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    model = models.build(spec.model, tokenizer, seed=spec.seed)
    if (folder / export.BESIDE / TARGETS).is_file():
        adapters.attach(model, folder / export.BESIDE)
        print(f"with   the adapters in {folder / export.BESIDE}")
    model = place(model, device_of(spec.device), spec.params)
    return Restored(spec=spec, folder=folder, tokenizer=tokenizer, model=model, settings={}, checkpoint=None)


def specfile_set(spec: TrainSpec, overrides: Sequence[str]) -> TrainSpec:
    """A spec with keys overridden, as a config's are."""
    if not overrides:
        return spec
    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "spec.json"
        file.write_text(spec.model_dump_json(exclude_unset=True))
        return specfile.load(TrainSpec, str(file), overrides)[0]


def streams_of(named: Sequence[str], base: StreamSpec | None) -> dict[str, StreamSpec]:
    """What `--data` names: NAME=DATASET (streamed as `base` is, once, in its order) or NAME=STREAM.yaml. Raises
    SpecError."""
    found = {}
    for each in named:
        name, equals, value = each.partition("=")
        if not equals:
            raise SpecError(f"--data {each}: write NAME=DATASET or NAME=STREAM.yaml")
        if value.endswith((".yaml", ".yml", ".json")):
            found[name] = specfile.load(StreamSpec, value)[0]
            continue
        told = {} if base is None else base.model_dump(exclude_unset=True, exclude=OF_TRAINING)
        told |= {"dataset": value, "epochs": 1, "shuffle": "none", "augment": None}
        if told.get("max_length") is None:
            told |= {"packing": "none", "batch_rows": 1}
        found[name] = StreamSpec.model_validate(told)
    return found


def speed(restored: Restored, stream: StreamingDataset, max_new_tokens: int) -> dict[str, float]:
    """How fast the model answers one prompt at a time: tokens of prompts per second, media encoded, up to the first
    token of the answer (`prefill_per_second`); and tokens of answers per second after it (`decode_per_second`)."""
    device, stops = device_of(restored.spec.device), models.ends(restored.model, stream)
    tokens = {"prefill": 0, "decode": 0}
    seconds = {"prefill": 0.0, "decode": 0.0}
    with undisturbed(restored.model), generating(restored.model), autocast(device, restored.spec.precision):
        for number, (packed, _, _) in enumerate(prompts(stream, SPEED_SAMPLES + 1)):
            _, first = _timed(restored.model, packed, device, 1, stops)
            ids, whole = _timed(restored.model, packed, device, max_new_tokens, stops)
            if not number:
                continue
            tokens["prefill"] += len(prompt_of(packed).input_ids)
            seconds["prefill"] += first
            tokens["decode"] += len(ids) - 1
            seconds["decode"] += max(0.0, whole - first)
    return {f"{name}_per_second": tokens[name] / seconds[name] for name in tokens if tokens[name] and seconds[name]}


def _timed(
    model: Any, packed: Packed, device: torch.device, count: int, stops: Sequence[int]
) -> tuple[list[int], float]:
    began = time.perf_counter()
    ids = continued(
        model, packed, count, device, stops=stops
    )  # its ids are on the host: whatever a GPU was given is done
    return ids, time.perf_counter() - began


def size(model: torch.nn.Module, folder: Path) -> dict[str, int]:
    """Parameters, each once; bytes that they take in memory; bytes of an exported model's folder, 0 for a run."""
    parameters = list(model.parameters())
    files = [file for file in folder.rglob("*") if file.is_file()] if not (folder / run.SPEC).exists() else []
    return {
        "parameters": sum(each.numel() for each in parameters),
        "bytes": sum(each.numel() * each.element_size() for each in parameters),
        "bytes_on_disk": sum(file.stat().st_size for file in files),
    }


@unread.goes_on
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for what failed, 2 for what is wrong with what was asked."""
    parser = argparse.ArgumentParser(prog="python -m mmtrain.evaluate", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("model", type=Path, metavar="RUN|FOLDER", help="folder of a run, or of an exported model")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=DATASET", help="or NAME=STREAM.yaml")
    parser.add_argument("--checkpoint", default="latest", metavar="STEP|latest|best", help="of a run; default: latest")
    parser.add_argument(
        "--weights",
        choices=get_args(ema.Choice),
        default="auto",
        help="of a run: averaged ones, or those that were trained; default: averaged ones if it keeps them",
    )
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="of the run's spec")
    parser.add_argument("--batches", type=int, metavar="N", help="global batches of each; default: all")
    parser.add_argument("--generate", type=int, default=8, metavar="K", help="samples of each that are answered")
    parser.add_argument("--max-new-tokens", type=int, default=32, metavar="N", help="of an answer, at most")
    parser.add_argument(
        "--metrics",
        nargs="+",
        default=["exact_match"],
        choices=get_args(Metric),
        help="of answers; default: exact_match",
    )
    parser.add_argument("--coordinates", choices=FORMATS, help="how answers write boxes, for metrics of boxes")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page of the answers")
    parser.add_argument("--json", action="store_true", help="everything as JSON")
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr if options.json else sys.stdout):  # JSON alone, without what is said on the way
            given = streams_of(options.data, None)
            data = next(iter(given.values()), None)
            restored = opened(options.model, options.checkpoint, options.set, data, options.weights)
            if (options.model / run.SPEC).is_file():
                given = streams_of(options.data, restored.spec.data)
            told = _told(restored.spec, given, options)
            # An exported model has no config that says by which template it was taught: its own, then.
            first = open_dataset(next(iter(told.data.values())).sources[0].path)
            evaluated = restored.spec.model_copy(update={"evaluation": told})
            restored = replace(restored, spec=models.with_template(evaluated, restored.tokenizer, first))
            told = restored.spec.evaluation or told
            family = models.family_of(restored.spec.model, restored.tokenizer)
            streams = held_out(told, restored.spec, family)
            found = _found(told, restored, streams)
            fast = speed(restored, next(iter(streams.values())), told.max_new_tokens) if told.generate else {}
            large = size(restored.model, options.model)
            if options.html is not None:
                options.html.parent.mkdir(parents=True, exist_ok=True)
                options.html.write_bytes(render(f"{options.model}", found.values, found.answers, streams))
    except pointer.ENDINGS as error:
        return pointer.failed("mmtrain.evaluate", error)
    if options.json:
        print(json.dumps({"values": found.values, "speed": fast, "size": large}, indent=1))
        return 0
    for name, value in {**found.values, **fast, **large}.items():
        print(f"{name:28} {value:,.4f}" if isinstance(value, float) else f"{name:28} {value:,}")
    if options.html is not None:
        print(f"page   {options.html}")
    elif found.answers:
        print(f"next   --html FILE shows {sum(map(len, found.answers.values()))} answers beside their media")
    return 0


def _told(spec: TrainSpec, given: dict[str, StreamSpec], options: argparse.Namespace) -> EvaluationSpec:
    data = given or (dict(spec.evaluation.data) if spec.evaluation is not None else {})
    if not data:
        raise SpecError("--data: the run was never evaluated; give NAME=DATASET or NAME=STREAM.yaml")
    coordinates = options.coordinates or (spec.evaluation.coordinates if spec.evaluation is not None else None)
    if coordinates is None and (mine := [metric for metric in options.metrics if metric in OF_BOXES]):
        raise SpecError(f"--metrics {mine[0]}: it reads boxes; say with --coordinates how answers write them")
    numbers = {"batches": options.batches, "generate": options.generate, "max_new_tokens": options.max_new_tokens}
    try:
        return EvaluationSpec(data=data, **numbers, metrics=tuple(options.metrics), coordinates=coordinates)
    except ValidationError as error:
        wrong = error.errors()[0]
        option = str(wrong["loc"][0]).replace("_", "-")
        raise SpecError(f"--{option} {wrong['input']}: {wrong['msg']}") from error


def _found(told: EvaluationSpec, restored: Restored, streams: Mapping[str, StreamingDataset]) -> Found:
    return evaluate(
        told,
        streams,
        spec=restored.spec,
        model=restored.model,
        tokenizer=restored.tokenizer,
        strategy=adopted(restored, next(iter(streams.values()))),
        world=World(),
    )


if __name__ == "__main__":
    sys.exit(main())
