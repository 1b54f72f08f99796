"""Recipes of several stages (align, multi-task, instruct): each an ordinary run that starts from the one before.

OUTPUT/01-align/ OUTPUT/02-instruct/ ... hold the runs. So a stage is logged, saved and resumed as any run is, and one
that is done is passed over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, Field

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.spec import Model
from mmdata.specfile import digest
from mmdata.types import World
from mmtrain.distributed import first
from mmtrain.ema import Choice

if TYPE_CHECKING:
    from mmtrain.spec import TrainSpec


class StageSpec(Model):
    """A stage: its name, and what of the config is other than at the top level.

    Mappings are merged key by key, anything else takes the place of what was there; `data.dataset` and `data.datasets`
    take each other's. `initialise` is of the first stage, unless a later one has rules of its own.
    """

    model_config = ConfigDict(extra="allow")

    name: str = Field(..., pattern=r"^[A-Za-z0-9_-]+$")
    """Names its folder."""
    weights: Choice = "auto"
    """What it takes of the stage before: averaged weights (`ema`), those that were trained (`raw`); `auto` takes
    averaged ones where that stage keeps them, which are what evaluations and export go by too."""

    @property
    def changes(self) -> dict[str, Any]:
        """What it says of the config."""
        return dict(self.model_extra or {})


@dataclass(frozen=True, slots=True)
class Before:
    """What a stage starts from: the folder of the run before it, and which of its weights."""

    folder: Path
    weights: Choice = "auto"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `over`, at any depth.

    >>> merged({"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a": {"b": 3}, "d": [4]})
    {'a': {'b': 3, 'c': 2}, 'd': [4]}
    >>> merged({"data": {"dataset": "x", "seed": 1}}, {"data": {"datasets": [{"path": "y"}]}})
    {'data': {'seed': 1, 'datasets': [{'path': 'y'}]}}
    """
    result = dict(base)
    for one, other in (("dataset", "datasets"), ("datasets", "dataset")):
        if one in over:
            result.pop(other, None)
    for key, value in over.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return result


def expanded(values: Mapping[str, Any], stages: Sequence[StageSpec], output: str) -> list[dict[str, Any]]:
    """The values of each stage's run, of those of the top level. Raises ValueError for two stages of one name."""
    names = [stage.name for stage in stages]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"stages: two are called {twice[0]}; their folders would be one")
    runs = []
    for number, stage in enumerate(stages, 1):
        if wrong := {"stages", "output", "name"} & stage.changes.keys():
            raise ValueError(f"stages: {stage.name}: {min(wrong)} belongs at the top level")
        if number == 1 and stage.weights != "auto":
            raise ValueError(f"stages: {stage.name}: weights: the first stage has none before it to take them from")
        base = dict(values) if number == 1 else {k: v for k, v in values.items() if k != "initialise"}
        runs.append(merged(base, {**stage.changes, "output": f"{output.rstrip('/')}/{number:02d}-{stage.name}"}))
    return runs


def run_stages(
    spec: TrainSpec, run: Callable[[TrainSpec, Before | None], int], *, only: str | None = None, dry: bool = False
) -> int:
    """Run the stages of a spec in order, or one of them by its name: `run` is given each with what it starts from.
    Raises SpecError for a stage that is not there, or whose predecessor is not done."""
    from mmtrain import run as run_folder

    names = [stage.name for stage in spec.stages]
    if only is not None and only not in names:
        there = nearest(only, names) if names else "the config has no `stages`"
        raise SpecError(f"--stage {only}: no such stage; {there}")
    before: Path | None = None
    for number, (name, stage) in enumerate(zip(names, spec.runs, strict=True), 1):
        if only is None or name == only:
            if before is not None and not dry and not run_folder.finished(before):
                told = f"{names[number - 2]}, the stage before, is not done ({before})"
                raise SpecError(f"--stage {name}: {told}; run it first, or all stages without --stage")
            print(f"stage  {number} of {len(names)}: {name}", flush=True)
            start = None if dry or before is None else Before(before, spec.stages[number - 1].weights)
            if code := run(stage, start):
                return code
        before = Path(stage.output)
    return 0


def bound_to(before: Before) -> dict[str, str]:
    """What binds a stage to the run that it starts from."""
    after = digest(json.loads((before.folder / "config.json").read_text()))
    return {"after": after} if before.weights == "auto" else {"after": after, "weights": before.weights}


def before(folder: Path) -> Before | None:
    """What a stage that has run started from, by its own folder; None for a run of its own and a first stage. Raises
    SpecError where the run before it is not there any more, or is another."""
    from mmtrain import run as run_folder

    bound = json.loads((folder / run_folder.CONFIG).read_text())
    if "after" not in bound:
        return None
    number = int(folder.absolute().name.split("-")[0])
    for other in sorted(folder.absolute().parent.glob(f"{number - 1:02d}-*")):
        found = Before(other, bound.get("weights", "auto"))
        if (other / run_folder.CONFIG).is_file() and bound_to(found)["after"] == bound["after"]:
            return found
    raise SpecError(f"{folder} went on from the stage before it, which is not beside it any more")


def take_tokenizer(before: Path, folder: Path, world: World) -> None:
    """The tokenizer goes on from stage to stage: ids mean what they meant."""

    def copy() -> None:
        if not folder.exists():
            temporary = folder.with_name(f".{folder.name}.stage")
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.copytree(before / "tokenizer", temporary)
            temporary.rename(folder)

    first(copy, world)


def take_weights(before: Before, spec: TrainSpec, model: Any, *, equipped: bool) -> str:
    """Put the weights that a stage ended with into the next one's model; what was done, for the console.

    With the same adapters in both stages they go on, and this has its turn when the model has them (`equipped`);
    otherwise the old ones are merged into the weights before the new ones are put beside them. Raises SpecError where
    they cannot be merged or models differ."""
    from mmtrain import adapters, checkpoint, ema, export, run

    source = checkpoint.found(before.folder)[-1]
    earlier = type(spec).model_validate_json((before.folder / run.SPEC).read_text())
    same = earlier.adapters == spec.adapters
    if same != equipped:
        return ""
    averaged = earlier.ema is not None and before.weights != "raw"
    told = f"after  {source}" + (", averaged weights" if averaged else "")
    if same and checkpoint.read_info(source)["weights"] == "all":
        checkpoint.load_weights(source, model)
        ema.put_saved(source, model, before.weights)
        return told
    old, _ = export.open_model(before.folder, source, weights=before.weights)
    if not same:
        adapters.merge(old)
    try:
        model.load_state_dict(old.state_dict())
    except RuntimeError as error:
        raise SpecError(f"{source} does not fit this stage's model: {str(error).splitlines()[-1].strip()}") from error
    return told + (", its adapters merged into the weights" if earlier.adapters and not same else "")
