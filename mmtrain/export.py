"""A run's model as a Hugging Face folder: python -m mmtrain.export RUN --output FOLDER.

The folder holds model, tokenizer, generation config and the processor's files where the source had them, so that
`from_pretrained` loads it, with the same logits as the run's own model. A native model's folder loads the same way
once `mmtrain.models` is imported.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from mmdata import pointer, unread
from mmdata.errors import SpecError
from mmdata.types import World
from mmtrain import adapters, checkpoint, ema, models, quantise, run, stages
from mmtrain.initialise import initialise
from mmtrain.models.kept import GENERATION
from mmtrain.models.source import copy_processor
from mmtrain.precision import place
from mmtrain.spec import TrainSpec

Adapters = Literal["merge", "keep"]
BESIDE = "adapters"
"""Where in the folder of a model its adapters lie, if they are kept apart."""


@unread.goes_on
def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code: 0, 1 for a disk that fails, 2 for what is wrong with what was asked."""
    parser = argparse.ArgumentParser(prog="python -m mmtrain.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="the run's folder")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("--checkpoint", default="latest", metavar="STEP|latest|best", help="default: latest")
    parser.add_argument(
        "--adapters",
        choices=("merge", "keep"),
        default="merge",
        help="merge them into the weights (default), or keep them apart in FOLDER/adapters",
    )
    parser.add_argument(
        "--weights",
        choices=("auto", "ema", "raw"),
        default="auto",
        help="averaged ones, or those that were trained; default: averaged ones if the run keeps them",
    )
    parser.add_argument(
        "--base",
        type=Path,
        metavar="FOLDER",
        help="where the model that the run began with lies now, of a run that saves trained weights only",
    )
    parser.add_argument(
        "--quantised",
        action="store_true",
        help="round the weights of layers under quantise_aware, as they compute; default: in full, as they learn",
    )
    options = parser.parse_args(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        how: dict[str, Any] = {"at": options.checkpoint, "mode": options.adapters, "weights": options.weights}
        how["quantised"] = options.quantised
        for line in export(options.run, options.output, **how, base=options.base):
            print(line)
    except pointer.ENDINGS as error:
        return pointer.failed("mmtrain.export", error)
    return 0


def export(
    folder: Path,
    output: Path,
    *,
    at: str = "latest",
    mode: Adapters = "merge",
    weights: ema.Choice = "auto",
    base: Path | None = None,
    quantised: bool = False,
) -> list[str]:
    """Write the model of a run's checkpoint to `output`, whole or not at all; answers what there is to say.

    With `quantised`, layers under `quantise_aware` get the rounded weights that they compute with, in floating point.
    A QLoRA is merged into its weights as they are in 4 bits, with which it learned, and kept beside them in full.
    Raises SpecError for a folder that is no run, a checkpoint or averaged weights that it does not have, an `output`
    that is in use, adapters that cannot be merged, and `quantised` where nothing is rounded, or adapters are to be
    merged into what is."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SpecError(f"--output: {output} holds other files; give a new folder")
    source = chosen(folder, at)
    model, spec = open_model(folder, source, weights=weights, base=base, full=mode == "keep")
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    averaged = spec.ema is not None and weights != "raw"
    said = [f"from   {source}" + (", averaged weights" if averaged else "")]
    try:
        if quantised:
            said.append(_rounded(model, mode))
        if any(True for _ in adapters.adapters(model)):
            said += _settle(model, temporary, mode)
            if mode == "keep" and any(map(adapters.is_qlora, spec.adapters)):
                said.append(
                    "full   weights beside them; load those in 4 bits (nf4, double quantisation), as they learned"
                )
        model.save_pretrained(temporary)
        if (folder / run.MODEL / GENERATION).is_file():  # a model that is built again has one of its own making
            shutil.copyfile(folder / run.MODEL / GENERATION, temporary / GENERATION)
        copied = copy_processor(folder / run.MODEL, temporary)
        AutoTokenizer.from_pretrained(
            str(folder / run.TOKENIZER), local_files_only=True, trust_remote_code=False
        ).save_pretrained(temporary)
        if output.exists():
            output.rmdir()
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    said.append(f"wrote  {output}: {type(model).__name__}, {parameters / 1e6:.2f} M parameters, {size / 2**20:.1f} MiB")
    said.append(f"with   tokenizer{''.join(f', {name}' for name in copied)}")
    return [*said, f"of     {spec.model.kind}, step {checkpoint.step_of(source)} of {spec.steps}"]


def chosen(folder: Path, at: str) -> Path:
    """The run's checkpoint that `at` means: `latest`, `best`, or a number of steps. Raises SpecError, naming those that
    there are."""
    saved = checkpoint.found(folder)
    if not saved:
        raise SpecError(f"{folder} has no checkpoint; give the folder of a run")
    if at == "latest":
        return saved[-1]
    if at == "best":
        best = folder / run.CHECKPOINTS / "best"
        if not best.exists():
            raise SpecError(f"--checkpoint best: {folder} keeps none; a run that evaluates keeps one")
        return best.resolve()
    known = {str(checkpoint.step_of(path)): path for path in saved}
    if at not in known:
        raise SpecError(f"--checkpoint {at}: {folder} has steps {', '.join(known)}, latest")
    return known[at]


def open_model(
    folder: Path, source: Path, *, weights: ema.Choice = "auto", base: Path | None = None, full: bool = False
) -> tuple[Any, TrainSpec]:
    """The model of a run with the weights of a checkpoint of it, in evaluation mode, and the run's spec.

    What a checkpoint of trained weights leaves out is what the run began with: of the stage before it, or of the model
    in its config, which may lie in `base` now. With `full`, weights beside a QLoRA are not put into 4 bits. Raises
    SpecError for a folder that is no run, for averaged weights of one that keeps none, and for a beginning that is not
    there any more or another."""
    spec = _spec_of(folder)
    whole = checkpoint.read_info(source)["weights"] == "all"
    model = models.rebuild(folder / run.MODEL) if whole else beginning(folder, spec, source, base)
    entries = adapters.unquantised(spec.adapters) if full else spec.adapters
    told = spec.model_copy(update={"adapters": entries})
    adapters.equip(told, model, world=World(), folder=folder, start=source, data=_never)
    if not whole:
        initialise(model, spec.initialise, seed=spec.seed)
    quantise.install(model, spec.quantise_aware)
    checkpoint.load_weights(source, model)
    if not whole:
        model.float()
    ema.put_saved(source, model, weights)
    return model.eval(), spec


def _spec_of(folder: Path) -> TrainSpec:
    try:
        return TrainSpec.model_validate_json((folder / run.SPEC).read_text())
    except FileNotFoundError as error:
        raise SpecError(f"{folder} is no run's folder: {error.filename} is missing") from error
    except ValueError as error:
        why = " ".join(str(error).split("\n")[1:3]) or str(error)  # pydantic's first line only counts
        raise SpecError(f"{folder / run.SPEC} is damaged, or of another version: {why}") from error


def beginning(folder: Path, spec: TrainSpec, source: Path | None, base: Path | None) -> Any:
    """The model that a run began with, on the CPU, without its adapters. `source` is the checkpoint that needs it,
    `base` where it lies now. Raises SpecError where it is not there any more."""
    before = stages.before(folder)
    if before is not None:
        model, earlier = open_model(
            before.folder, checkpoint.found(before.folder)[-1], weights=before.weights, base=base
        )
        if earlier.adapters == spec.adapters:
            adapters.remove(model)
        else:
            adapters.merge(model)
        quantise.remove(model)
    else:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder / run.TOKENIZER), local_files_only=True, trust_remote_code=False
        )
        begun = spec.model if base is None else spec.model.model_copy(update={"path": str(base.absolute())})
        try:
            model = models.build(begun, tokenizer, seed=spec.seed)
        except SpecError as error:
            raise SpecError(
                f"{source or folder} holds trained weights only, and the others cannot be had: {error}; --base FOLDER "
                "says where the model that the run began with lies now"
            ) from error
    return place(model, torch.device("cpu"), spec.params)


def _settle(model: Any, folder: Path, mode: Adapters) -> list[str]:
    """Merge the adapters, or write them beside the model and take them out."""
    if mode == "merge":
        try:
            adapters.merge(model)
        except SpecError as error:
            raise SpecError(f"{error}; --adapters keep leaves them beside the weights") from error
        return ["merged adapters"]
    refused = adapters.export(model, folder / BESIDE)
    adapters.remove(model)
    return [f"kept   adapters in {folder.name.strip('.').removesuffix('.tmp')}/adapters", *refused]


def _rounded(model: Any, mode: Adapters) -> str:
    """Round what computes rounded; what was done."""
    if mode == "merge" and (both := quantise.adapted(model)):
        raise SpecError(
            f"--quantised: {both[0]} has an adapter (and {len(both) - 1} more have), and merged with it its weights "
            "are no longer rounded; --adapters keep leaves them beside"
        )
    if not (count := quantise.settle(model)):
        raise SpecError(
            "--quantised: no layer of this run computes with rounded weights; its config has no quantise_aware"
        )
    return f"rounded the weights of {count} linear layers, as they compute"


def _never(batches: int) -> Any:
    raise AssertionError(f"ranks of a finished run are kept, not measured on {batches} batches")


if __name__ == "__main__":
    sys.exit(main())
