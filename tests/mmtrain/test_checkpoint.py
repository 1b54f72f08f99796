"""Checkpoints are whole or not there, are checked, kept and pointed to, and fit what they were made of."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mmdata.errors import RunError, SpecError
from mmdata.types import World
from mmtrain import checkpoint
from mmtrain.checkpoint import CheckpointSpec
from mmtrain.random_state import random_state, set_random_state
from mmtrain.rules import Setting
from mmtrain.state_tree import split


class Model(torch.nn.Module):
    """Two parts, of which one is frozen; a weight that is shared, and a buffer."""

    def __init__(self, seed: int = 0, size: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.tower = torch.nn.Linear(size, size)
        self.embedding = torch.nn.Embedding(8, size)
        self.head = torch.nn.Linear(size, 8, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class Part:
    """A part with a tensor, a number and a list."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"values": {"a.b": torch.ones(3)}, "count": 1, "losses": [0.5]}

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self.state = saved


@pytest.fixture(autouse=True)
def _plain_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "aliases", lambda model: {name: name for name, _ in model.named_parameters()})


def make_job(folder: Path, seed: int = 0, **spec: Any) -> Any:
    model = Model(seed)
    names = [name for name, _ in model.named_parameters()]
    settings = {name: Setting(train=not name.startswith("tower")) for name in names}
    part = Part()
    told = CheckpointSpec(**spec)
    job = SimpleNamespace(
        spec=SimpleNamespace(checkpoint=told),
        world=World(),
        folder=folder,
        model=model,
        settings=settings,
        optim=torch.optim.AdamW([p for n, p in model.named_parameters() if settings[n].train], lr=0.1),
        loader=SimpleNamespace(state_dict=lambda: {"place": [1, 2]}, load_state_dict=lambda saved: None),
        step=0,
        parts={"part": part},
        config={"seed": 1},
        base=checkpoint.base_digest(model, settings) if told.weights == "trained" else None,
    )
    job.optimised = lambda: dict(job.model.named_parameters())
    job.state = lambda: {name: each.state_dict() for name, each in job.parts.items()}
    return job


def move(job: Any) -> None:
    """One step of the optimiser, and of everything else."""
    job.optim.zero_grad()
    job.model.head(job.model.embedding(torch.arange(8))).square().sum().backward()
    job.optim.step()
    job.model.seen += 1
    job.parts["part"].state["values"]["a.b"] += 1
    job.parts["part"].state["count"] += 1
    job.step += 1


def everything(job: Any) -> list[Any]:
    moments = [state[key] for state in job.optim.state.values() for key in sorted(state)]
    return [*job.model.state_dict().values(), *moments, job.parts["part"].state["values"]["a.b"]]


@pytest.mark.parametrize("kept", ["all", "trained"])
def test_what_is_saved_comes_back_to_the_bit(tmp_path: Path, kept: str) -> None:
    job = make_job(tmp_path, weights=kept)
    for _ in range(3):
        move(job)
    folder = checkpoint.save(job)
    other = make_job(tmp_path, weights=kept)
    checkpoint.load(folder, other)
    assert other.step == 3
    assert other.parts["part"].state["count"] == 4
    assert other.parts["part"].state["losses"] == [0.5]
    assert all(torch.equal(a, b) for a, b in zip(everything(other), everything(job), strict=True))
    bare = Model()
    checkpoint.load_weights(folder, bare)
    assert torch.equal(bare.head.weight, job.model.head.weight)
    assert bare.head.weight is bare.embedding.weight
    move(job)
    move(other)
    assert all(torch.equal(a, b) for a, b in zip(everything(other), everything(job), strict=True))
    assert not torch.equal(bare.head.weight, job.model.head.weight)


def test_trained_weights_want_the_same_others(tmp_path: Path) -> None:
    job = make_job(tmp_path, weights="trained")
    move(job)
    folder = checkpoint.save(job)
    assert "tower.weight" not in checkpoint.TensorFiles(folder, "model").described
    with pytest.raises(SpecError, match="trained weights only"):
        checkpoint.load(folder, make_job(tmp_path, seed=1, weights="trained"))
    with pytest.raises(SpecError, match="trained weights only"):
        checkpoint.load_weights(folder, Model(1))


def test_another_model_is_refused(tmp_path: Path) -> None:
    folder = checkpoint.save(make_job(tmp_path))
    with pytest.raises(SpecError, match=r"does not fit.* is \[8, 4\] in it, not \[8, 5\]"):
        checkpoint.load_weights(folder, Model(size=5))
    with pytest.raises(SpecError, match=r"does not fit.*it has no|does not fit.*the model has no"):
        checkpoint.load_weights(folder, torch.nn.ModuleDict({"tower": Model().tower, "more": Model().tower}))


def test_which_are_kept_and_where_links_point(tmp_path: Path) -> None:
    job = make_job(tmp_path, keep=2, keep_every=4)
    losses = {2: 3.0, 3: 1.0, 5: float("nan"), 6: 2.0}
    for _ in range(7):
        move(job)
        if job.step != 3:  # `mark_best` writes it
            checkpoint.save(job)
        if job.step in losses:
            assert checkpoint.mark_best(job, "loss", losses[job.step]) == (job.step in (2, 3))
    assert [checkpoint.step_of(path) for path in checkpoint.found(tmp_path)] == [3, 4, 6, 7]
    parent = tmp_path / "checkpoints"
    assert (parent / "latest").resolve().name == "step-00000007"
    assert (parent / "best").resolve().name == "step-00000003"
    assert json.loads((parent / "best.json").read_text())["value"] == 1.0
    assert checkpoint.mark_best(job, "accuracy", 0.5, lower=False)
    assert (parent / "best").resolve().name == "step-00000007"


def damages(folder: Path) -> dict[str, Any]:
    def cut(name: str) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    def flip(name: str) -> None:
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 1
        (folder / name).write_bytes(bytes(data))

    def step() -> None:
        info = json.loads((folder / "checkpoint.json").read_text())
        (folder / "checkpoint.json").write_text(json.dumps({**info, "step": info["step"] + 1}))

    return {
        "model.safetensors is damaged": lambda: cut("model.safetensors"),
        "optimizer.safetensors is damaged": lambda: flip("optimizer.safetensors"),
        "parts.safetensors is missing": (folder / "parts.safetensors").unlink,
        "checkpoint.json is missing": (folder / "checkpoint.json").unlink,
        "checkpoint.json is damaged": lambda: cut("checkpoint.json"),
        "its checksum does not fit": step,
    }


@pytest.mark.parametrize("which", range(6))
def test_a_damaged_one_is_named_and_the_one_before_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], which: int
) -> None:
    job = make_job(tmp_path)
    for _ in range(2):
        move(job)
        checkpoint.save(job)
    message, spoil = list(damages(checkpoint.found(tmp_path)[-1]).items())[which]
    spoil()
    with pytest.raises(SpecError, match=message):
        checkpoint.load(checkpoint.found(tmp_path)[-1], make_job(tmp_path))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.name == "step-00000001"
    shown = capsys.readouterr().out
    assert message in shown
    assert "step-00000002.damaged" in shown
    assert (tmp_path / "checkpoints" / "latest").resolve() == found
    damages(found)["checkpoint.json is missing"]()
    for _ in range(2):  # a job that is started again and again must not begin anew
        with pytest.raises(RunError, match="every checkpoint is damaged"):
            checkpoint.newest(tmp_path)


def test_damaged_weights_are_not_exported_or_evaluated(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    checkpoint.save(job)
    (saved,) = checkpoint.found(tmp_path)
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 64
    file.write_bytes(data)
    with pytest.raises(SpecError, match=r"model.safetensors is damaged"):
        checkpoint.load_weights(saved, make_job(tmp_path).model)


def _save_for_ever(folder: Path) -> None:
    job = make_job(folder)
    if (newest := checkpoint.newest(folder)) is not None:
        checkpoint.load(newest, job)
    while True:
        move(job)
        checkpoint.save(job)


def test_killed_while_it_saves_the_latest_is_whole(tmp_path: Path) -> None:
    """Whatever it does at that moment: the newest checkpoint can be loaded, and it goes on from there."""
    reached = -1
    for attempt in range(10):
        process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(tmp_path,))
        process.start()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (saved := checkpoint.found(tmp_path)) and checkpoint.step_of(saved[-1]) > reached:
                break
            time.sleep(0.001)
        time.sleep(0.003 * attempt)
        process.kill()
        process.join()
        newest = checkpoint.found(tmp_path)[-1]
        assert checkpoint.damage(newest) is None
        job = make_job(tmp_path)
        checkpoint.load(newest, job)
        assert job.step > reached
        reached = job.step
        assert job.parts["part"].state["count"] == job.model.seen + 1 == job.step + 1
    move(job)
    checkpoint.save(job)
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))


def test_a_full_disk_is_said_and_the_one_before_is_left(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    try:
        job = make_job(disk)
        move(job)
        kept = checkpoint.save(job)
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 4096))
        move(job)
        with pytest.raises(RunError, match=r"step-00000002 could not be written: .*space.*step-00000001 is whole"):
            checkpoint.save(job)
        assert checkpoint.found(disk) == [kept]
        assert checkpoint.damage(kept) is None
        (disk / "filler").unlink()
        assert checkpoint.damage(checkpoint.save(job)) is None
    finally:
        subprocess.run(["umount", disk], check=True)


def test_generators_go_on_where_they_were() -> None:
    saved = json.loads(json.dumps(random_state()))
    drawn = torch.rand(3).tolist(), np.random.rand(), random.random(), random.gauss(0, 1)
    set_random_state(saved)
    assert (torch.rand(3).tolist(), np.random.rand(), random.random(), random.gauss(0, 1)) == drawn


def test_states_are_json_and_tensors() -> None:
    tree, tensors = split({"a": {"b": torch.ones(2), "c": [1, None]}, "d": {}})
    assert tree == {"a": {"b": {"tensor": "a/b"}, "c": [1, None]}, "d": {}}
    assert json.loads(json.dumps(tree)) == tree
    assert list(tensors) == ["a/b"]


def test_a_copy_is_a_checkpoint_too(tmp_path: Path) -> None:
    folder = checkpoint.save(make_job(tmp_path))
    shutil.copytree(folder, tmp_path / "copy")
    checkpoint.load(tmp_path / "copy", make_job(tmp_path))
    with pytest.raises(SpecError, match=r"is not a checkpoint: checkpoint\.json is missing"):
        checkpoint.load(tmp_path, make_job(tmp_path))
