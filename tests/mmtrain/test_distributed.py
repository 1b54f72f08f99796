"""Several processes do what one does: sums, gradients, whole runs, resuming on other numbers of ranks (training.md, 11,
16, 27)."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist
from torch import multiprocessing

from mmdata.types import World
from mmtrain import checkpoint, sft
from mmtrain.distributed import add_gradients, agree, first, gather, sums
from tests.mmtrain import ranks
from tests.mmtrain.test_sft import arguments, trace


def _rank(rank: int, ranks: int, store: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    world = World(rank=rank, ranks=ranks)
    assert sums([rank + 1, 2.0**40], world) == [ranks * (ranks + 1) / 2, ranks * 2.0**40]

    assert agree(rank == ranks - 1, world)
    assert not agree(False, world)
    assert gather(rank * 2, world) == [2 * each for each in range(ranks)]

    both, mine, frozen = (torch.nn.Parameter(torch.ones(3)) for _ in range(3))
    frozen.requires_grad_(False)
    both.grad = torch.full((3,), rank + 1.0)
    if rank == 0:  # media on one rank only
        mine.grad = torch.full((3,), 5.0)
    add_gradients([both, mine, frozen], world)
    assert both.grad.tolist() == [ranks * (ranks + 1) / 2] * 3
    assert mine.grad is not None
    assert mine.grad.tolist() == [5.0] * 3
    assert frozen.grad is None

    assert first(lambda: os.getpid() if rank == 0 else pytest.fail("rank 0 alone makes it"), world) > 0
    with pytest.raises(ValueError, match="made by rank 0"):
        first(_broken, world)
    dist.destroy_process_group()


def _broken() -> None:
    raise ValueError("made by rank 0")


def test_ranks_add_up_to_one(tmp_path: Path) -> None:
    multiprocessing.start_processes(_rank, args=(3, str(tmp_path / "store")), nprocs=3, start_method="forkserver")


def test_alone_nothing_is_asked() -> None:
    assert sums([1.5], World()) == [1.5]
    assert agree(True, World())
    assert gather(3, World()) == [3]
    absent = torch.nn.Parameter(torch.ones(3))
    add_gradients([absent], World())  # as on two ranks of which neither has media
    assert absent.grad is not None
    assert absent.grad.tolist() == [0, 0, 0]
    assert first(lambda: 7, World()) == 7


def without_rank(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if not name.startswith(("loss", "grad_norm"))}


def test_two_ranks_train_as_one_and_resume_as_one(folder: Path, tmp_path: Path) -> None:
    """The same packs, losses and gradient norms on 1 rank, on 2, and on 2 then 1."""
    one, two = tmp_path / "one", tmp_path / "two"
    extra = ["global_batch=5", "steps=6", "checkpoint.every=3"]  # 5 packs: a dummy for one of two ranks
    assert sft.main(arguments(folder, one, *extra)) == 0
    ranks.run(2, arguments(folder, two, *extra), tmp_path / "said")
    expected, found = trace(one), trace(two)
    assert [without_rank(line) for line in found] == [without_rank(line) for line in expected]
    for a, b in zip(expected, found, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)

    for path in (two / "checkpoints").glob("step-*6"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert sft.main(arguments(folder, two, *extra)) == 0
    again = trace(two)
    assert [without_rank(line) for line in again] == [without_rank(line) for line in expected]
    assert again[:3] == found[:3]
    for a, b in zip(expected, again, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    assert json.loads((two / "config.json").read_text())["global_batch"] == 5


def killed_after(step: int, told: list[str], output: Path, count: int) -> None:
    """Start the command on so many ranks, and kill -9 all of them when the checkpoint of a step is there."""
    processes = ranks.start(count, told, output.parent / "said")
    deadline = time.monotonic() + 240
    while not any(checkpoint.step_of(each) >= step for each in checkpoint.found(output)):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    for process in processes:
        process.kill()
    assert ranks.wait(processes) == [-signal.SIGKILL] * count


@pytest.mark.soak
@pytest.mark.parametrize("packs", [4, 5])  # 5: one of two ranks gets a dummy
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_killed_on_some_ranks_it_goes_on_on_others(
    folder: Path, tmp_path: Path, before: int, after: int, packs: int
) -> None:
    """20 steps, of which those up to a checkpoint are done by `before` ranks and the others by `after`: the same keys
    at every step, and the losses of a run that was left alone."""
    extra = ["--set", f"global_batch={packs}", "steps=20", "checkpoint.every=4"]
    assert sft.main(arguments(folder, tmp_path / "whole", *extra)) == 0
    expected = trace(tmp_path / "whole")
    output = tmp_path / "run"
    told = arguments(folder, output, *extra)
    killed_after(8, told, output, before)
    said = ranks.run(after, told, tmp_path / "again")
    done = re.search(r"(\d+) of 20 steps are done", said)
    assert done is not None
    assert 8 <= int(done[1]) < 20
    found = trace(output)
    assert [line["step"] for line in found] == list(range(20))
    assert [without_rank(line) for line in found] == [without_rank(line) for line in expected]
    for a, b in zip(expected, found, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def moments(output: Path) -> dict[str, torch.Tensor]:
    """Means of the gradients of a run, from its last checkpoint."""
    file = checkpoint.found(output)[-1] / "optimizer.safetensors"
    return {name: value for name, value in load_file(file).items() if name.endswith("exp_avg")}


def assert_same_steps(found: Path, expected: Path) -> None:
    """Losses, and norms and means of gradients, within 1e-6."""
    for a, b in zip(trace(found), trace(expected), strict=True):
        assert a["keys_crc32c"] == b["keys_crc32c"]
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-6)
    mine, other = moments(found), moments(expected)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, other[name], atol=1e-6, rtol=0, msg=name)


DROPOUT = r"adapters=[{kind: lora, match: 'language\..*_proj', rank: 4, dropout: 0.5}]"


@pytest.mark.soak
@pytest.mark.parametrize("packs", [4, 5])
def test_passes_and_ranks_change_nothing_nor_does_dropout(folder: Path, tmp_path: Path, packs: int) -> None:
    """(accumulation, ranks) of (1, 1), (N, 1) and (N / 2, 2) are one training; what is dropped is keyed by step and
    pack, so that it is the same wherever the pack is."""
    extra = ["--set", f"global_batch={packs}", "steps=4"]
    for name, more in (("plain", []), ("dropped", [DROPOUT])):
        for count, per_pass in ((1, 1), (2, 1), (1, packs)):
            output = tmp_path / f"{name}-{count}-{per_pass}"
            told = arguments(folder, output, *extra, f"packs_per_forward={per_pass}", *more)
            if count > 1:
                ranks.run(count, told, tmp_path / "said")
                assert_same_steps(output, tmp_path / f"{name}-1-1")
            elif per_pass > 1 and more:
                assert sft.main(told) == 2  # one draw for several packs is refused: test_blocks
            else:
                assert sft.main(told) == 0
                assert_same_steps(output, tmp_path / f"{name}-1-1")
    losses = [[line["loss"] for line in trace(tmp_path / f"{name}-1-1")] for name in ("plain", "dropped")]
    assert losses[0][0] == losses[1][0]  # LoRA begins as nothing
    assert losses[0][1] != losses[1][1]


@pytest.mark.parametrize(
    ("sent", "seconds", "told"),
    [(signal.SIGKILL, 120, "lost the others"), (signal.SIGSTOP, 4, "lost the others: .*[Tt]imed out")],
)
def test_a_rank_that_dies_or_hangs_ends_the_others(
    folder: Path, tmp_path: Path, sent: signal.Signals, seconds: float, told: str
) -> None:
    """With one clear line, and a checkpoint to go on from; none waits for ever."""
    output = tmp_path / "run"
    long = ["steps=100000", "checkpoint.every=2", f"distributed.timeout_seconds={seconds}"]
    one, other = ranks.start(2, arguments(folder, output, *long), tmp_path)
    deadline = time.monotonic() + 240
    while len(checkpoint.found(output)) < 2 and time.monotonic() < deadline and one.is_alive():
        time.sleep(0.05)
    assert other.pid is not None
    os.kill(other.pid, sent)
    (code,) = ranks.wait([one], 120)
    other.kill()
    said = (tmp_path / "rank-0.txt").read_text()
    assert code == 1, said[-3000:]
    (line,) = [line for line in said.splitlines() if line.startswith("mmtrain.sft: ")]
    assert re.search(f"rank 0 of 2 {told}", line)
    assert checkpoint.damage(checkpoint.found(output)[-1]) is None
