"""The folder of a run: what it is bound to, its log, and how a run starts anew or goes on."""

from __future__ import annotations

import fcntl
import importlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard import SummaryWriter

from mmdata.errors import RunError, SpecError
from mmdata.shards.storage import sha256_file, write_atomic
from mmdata.specfile import bound, difference
from mmtrain import checkpoint, gate
from mmtrain.spec import TrainSpec

EVALUATIONS, SAMPLES = "evaluations.jsonl", "samples"
"""What evaluations found, a line for each; a page for each that made answers."""
CONFIG, SPEC, DONE, METRICS, TENSORBOARD, TOKENIZER, MODEL, CHECKPOINTS, STREAM = (
    "config.json",
    "spec.json",
    "done.json",
    "metrics.jsonl",
    "tensorboard",
    "tokenizer",
    "model",
    "checkpoints",
    "stream",
)


def binding(spec: TrainSpec, root_digests: Sequence[str]) -> dict[str, Any]:
    """All that decides the weights a run ends with; where its data and results lie does not, nor on how many processes
    it runs."""
    config = bound(spec)
    del config["output"], config["data"]["dataset"]
    for source in config["data"].get("datasets") or ():
        del source["path"]
    if spec.plugins:
        config["plugins"] = {Path(name).name: _code(name) for name in spec.plugins}
    return dict(json.loads(json.dumps({"datasets": list(root_digests), **config})))


def _code(plugin: str) -> str:
    """SHA-256 of a plugin's code."""
    file = plugin if plugin.endswith(".py") else getattr(importlib.import_module(plugin), "__file__", None)
    return sha256_file(Path(file)) if file else ""


def open_run(folder: Path, config: dict[str, Any], resume: str) -> Path | None:
    """Make the folder ready and answer the checkpoint to go on from, or None for a new start.

    `resume` is `auto` (the newest checkpoint if there is one), `never` (what is there is removed), or the path of a
    checkpoint. Raises SpecError where the folder belongs to a run of another config, or to something else, and RunError
    where another process trains in it; until `release` it is this one's.
    """
    names = (DONE, METRICS, TENSORBOARD, TOKENIZER, MODEL, CHECKPOINTS, STREAM, gate.QUARANTINE, EVALUATIONS, SAMPLES)
    ours = [folder / name for name in names]
    known = folder / CONFIG
    if (folder / "manifest.json").exists():
        raise SpecError(f"output: {folder} is a dataset; give the run a folder of its own")
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"output: {folder} is a file; give the run a folder of its own")
    if _foreign(known) or (not known.exists() and any(path.exists() for path in ours)):
        raise SpecError(f"output: {folder} holds other files than a run's; choose another folder")
    if resume not in ("auto", "never"):
        if not Path(resume).is_dir():
            raise SpecError(f"--resume {resume}: no such checkpoint; give auto, never or the path of one")
        start: Path | None = Path(resume)
        if (why := checkpoint.damage(Path(resume))) is not None:
            raise SpecError(f"--resume {resume}: {why}")
        later = [path.name for path in checkpoint.found(folder) if path.name > Path(resume).resolve().name]
        if later:
            raise SpecError(f"output: {folder} went on to {', '.join(later)}; give the branch another folder")
    else:
        start = checkpoint.newest(folder) if resume == "auto" and known.exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    _hold(folder)
    if start is None:
        for path in ours:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    elif known.exists() and (changes := list(difference(_read(known), config))):
        lines = "\n".join(f"  {change}" for change in changes)
        raise SpecError(
            f"output: {folder} holds a run of another config; give this one another folder, or start over with "
            f"--resume never (saved -> now):\n{lines}"
        )
    elif changes := list(difference(checkpoint.read_info(start)["config"], config)):
        told = "; ".join(changes)
        print(f"resume from {start}, which is of another config (there -> here): {told}", flush=True)
    write_atomic(known, (json.dumps(config, indent=1) + "\n").encode())
    return start


_held: dict[Path, int] = {}
"""Folders that this process trains in, by the descriptors that hold their locks."""


def _hold(folder: Path) -> None:
    """Lock the folder itself, so that nothing is left in it; the kernel drops the lock with the process."""
    path = folder.resolve()
    if path in _held:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(
            f"output: {folder}: another process trains in it; end that one, or choose another folder"
        ) from None
    except OSError:  # a file system without locks on folders: as good as it goes
        os.close(descriptor)
        return
    _held[path] = descriptor


def release() -> None:
    """Let other processes train in the folders that this one trained in."""
    while _held:
        os.close(_held.popitem()[1])


def _foreign(config: Path) -> bool:
    """Whether a `config.json` is another's: that of a model, say, which would be written over."""
    try:
        found = json.loads(config.read_text())
    except (OSError, ValueError):
        return False
    return not (isinstance(found, dict) and "datasets" in found)


def keep_spec(folder: Path, spec: TrainSpec) -> None:
    """Write the whole spec, paths too, beside the log: what `replay` and `evaluate` open a run by."""
    write_atomic(folder / SPEC, (spec.model_dump_json(indent=1) + "\n").encode())


def finish(folder: Path, step: int) -> None:
    """Write that the run came to its end, after `step` steps: all of them, or all that its stream has."""
    write_atomic(folder / DONE, (json.dumps({"step": step}) + "\n").encode())


def finished(folder: Path) -> bool:
    """Whether a run came to its end, and the checkpoint of that moment is there and whole."""
    path, saved = folder / DONE, checkpoint.found(folder)
    if not path.exists() or not saved or _read(path).get("step") != checkpoint.step_of(saved[-1]):
        return False
    return checkpoint.damage(saved[-1]) is None


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise SpecError(f"{path} is damaged: {error}") from error


class Log:
    """One JSON line and one set of TensorBoard points per step; opened again after `step`, it forgets the rest."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / METRICS
        kept = [line for line in _lines(path) if line["step"] < step]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self.first: float | None = next((line["loss"] for line in kept if line["loss"] is not None), None)
        self._file: TextIO = path.open("a")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step)

    def write(self, values: dict[str, Any]) -> None:
        """Append the values of one step; `step` is one of them. JSON has no word for what is not finite: null."""
        values = {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in values.items()}
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        if self.first is None:
            self.first = values["loss"]
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                self._board.add_scalar(name, value, values["step"])

    def points(self, step: int, values: Mapping[str, float]) -> None:
        """Put values into TensorBoard alone."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The log of a run, a dictionary for each step."""
    return _lines(folder / METRICS)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a kill may have cut the last one, and a machine that lost its power left zeros."""
    found = []
    for line in path.read_text(errors="replace").splitlines(keepends=True) if path.exists() else []:
        try:
            found += [json.loads(line)] if line.endswith("\n") else []
        except ValueError:
            continue
    return found
