"""The gate: what is not finite or leaps moves nothing, on any rank, and is written down (training.md, 14, 15, 16)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed as dist
from torch import multiprocessing

from mmdata.errors import RunError
from mmdata.types import World
from mmtrain import loop, sft
from mmtrain import step as taken
from mmtrain.gate import Gate, forget_quarantine, quarantine, quarantined
from mmtrain.objective import losses
from mmtrain.watch import SpikeSpec, WatchSpec
from tests.mmtrain.ranks import run as ranks
from tests.mmtrain.test_sft import arguments, trace

ALONE = World()


def test_losses_and_gradients_that_are_not_finite_are_refused() -> None:
    gate = Gate(WatchSpec())
    assert gate.judge(1.0, 2.0, ALONE) is None
    assert gate.judge(math.nan, 2.0, ALONE) == "loss_not_finite"
    assert gate.judge(1.0, math.inf, ALONE) == "gradient_not_finite"
    assert (gate.skipped, gate.in_a_row) == (2, 2)
    assert gate.judge(1.0, 2.0, ALONE) is None
    assert (gate.skipped, gate.in_a_row) == (2, 0)


def test_a_spike_is_more_than_a_factor_times_the_median_of_a_full_window() -> None:
    gate = Gate(WatchSpec(spike=SpikeSpec(window=3, factor=2.0)))
    assert [gate.judge(loss, 1.0, ALONE) for loss in (50.0, 1.0, 1.2)] == [None] * 3  # the window is not full yet
    assert gate.judge(2.3, 1.0, ALONE) is None  # the median of 50, 1, 1.2 is 1.2
    assert gate.judge(2.5, 1.0, ALONE) == "loss_spike"  # of 1, 1.2, 2.3 too: a spike is not counted
    assert gate.judge(2.5, 1.0, ALONE) == "loss_spike"
    assert gate.judge(2.4, 1.0, ALONE) is None


def test_a_gate_goes_on_exactly() -> None:
    spec = WatchSpec(spike=SpikeSpec(window=4, factor=1.5))
    losses = [3.0, 2.0, 2.5, 2.1, 4.0, 2.2, math.nan, 3.4, 1.9, 9.0, 2.0]
    whole = Gate(spec)
    expected = [whole.judge(loss, 1.0, ALONE) for loss in losses]
    assert {"loss_spike", "loss_not_finite", None} == set(expected)
    for cut in range(len(losses)):
        first, second = Gate(spec), Gate(spec)
        found = [first.judge(loss, 1.0, ALONE) for loss in losses[:cut]]
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        found += [second.judge(loss, 1.0, ALONE) for loss in losses[cut:]]
        assert found == expected
        assert second.state_dict() == whole.state_dict()


def test_too_many_in_a_row_and_stop_end_the_run() -> None:
    gate = Gate(WatchSpec(max_skips=1))
    gate.check(gate.judge(math.nan, 1.0, ALONE) or "loss_spike", 3, ["a"])
    with pytest.raises(RunError, match=r"step 4: .*2 steps in a row.*max_skips: 1"):
        gate.check(gate.judge(math.nan, 1.0, ALONE) or "loss_spike", 4, ["a"])
    with pytest.raises(RunError, match=r"step 0: loss not finite.*\['a'\].*on_nonfinite"):
        Gate(WatchSpec(on_nonfinite="stop")).check("loss_not_finite", 0, ["a"])


def test_the_quarantine_is_read_again_and_forgets_what_will_be_done_again(tmp_path: Path) -> None:
    for step in (2, 5):
        quarantine(tmp_path, step, "loss_not_finite", ["k1", "k2"], ALONE)
    with open(tmp_path / "quarantine.jsonl", "a") as file:
        file.write('{"step": 6, "rea')  # a kill
    assert [line["step"] for line in quarantined(tmp_path)] == [2, 5]
    forget_quarantine(tmp_path, 5)
    assert quarantined(tmp_path) == [{"step": 2, "reason": "loss_not_finite", "rank": 0, "keys": ["k1", "k2"]}]


def _rank(rank: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    world = World(rank=rank, ranks=ranks)
    gate = Gate(WatchSpec())
    # One rank alone sees it: all skip the same step.
    assert gate.judge(math.nan if rank == 1 else 1.0, 1.0, world) == "loss_not_finite"
    assert gate.judge(1.0, math.inf if rank == 0 else 1.0, world) == "gradient_not_finite"
    assert gate.judge(1.0, 1.0, world) is None
    quarantine(Path(folder), 7, "loss_not_finite", [f"key-{rank}"], world)
    dist.destroy_process_group()


def test_ranks_agree(tmp_path: Path) -> None:
    multiprocessing.start_processes(_rank, args=(2, str(tmp_path)), nprocs=2, start_method="forkserver")
    assert [(line["rank"], line["keys"]) for line in quarantined(tmp_path)] == [(0, ["key-0"]), (1, ["key-1"])]


TOO_FAST = ["optim.lr=1e30", "optim.warmup_steps=0", "checkpoint.every=1", "checkpoint.keep=9"]
"""The first step is as any; after it weights are so large that nothing is finite any more."""


def test_a_bad_sample_is_skipped_and_named_and_the_rest_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step whose loss is NaN moves nothing, bit for bit: the run is that of one which stood still in it."""
    assert sft.main(arguments(folder, tmp_path / "good", "--set", "steps=4")) == 0
    bad = 2
    train_step = loop.train_step

    def counted(job: Any, batches: Any) -> Any:
        before = {name: value.clone() for name, value in job.model.state_dict().items()}
        moments = str(job.optim.state_dict()["state"])
        if job.step == bad:
            head = job.model.get_output_embeddings()
            hook = head.register_forward_hook(lambda module, given, logits: logits * math.nan)
        result = train_step(job, batches)
        if job.step == bad:
            hook.remove()
        same = all(torch.equal(value, before[name]) for name, value in job.model.state_dict().items())
        assert same == (job.step == bad)
        assert (str(job.optim.state_dict()["state"]) == moments) == (job.step == bad)
        return result

    monkeypatch.setattr(loop, "train_step", counted)
    output = tmp_path / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=4")) == 0
    lines = trace(output)
    assert [line["skipped"] for line in lines] == [None, None, "loss_not_finite", None]
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1]
    assert lines[bad]["loss"] is None
    assert lines[bad]["lr"] == pytest.approx(3e-3 * (bad + 1) / 5), "of the schedule, though it moved nothing"
    assert lines[:bad] == trace(tmp_path / "good")[:bad]
    (entry,) = quarantined(output)
    assert (entry["step"], entry["reason"], entry["rank"], len(entry["keys"])) == (
        bad,
        "loss_not_finite",
        0,
        lines[bad]["samples"],
    )


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def test_a_run_that_cannot_recover_stops_with_its_weights_as_they_were(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A learning rate that breaks the model, no test hook: each step is skipped until there are too many."""
    output = tmp_path / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=9", "watch.max_skips=2", *TOO_FAST)) == 1
    assert "3 steps in a row" in capsys.readouterr().err
    assert [entry["step"] for entry in quarantined(output)] == [1, 2, 3]
    before = weights(output, 1)
    assert all(torch.equal(value, before[name]) for name, value in weights(output, 3).items())


def test_ranks_skip_together_and_go_on(folder: Path, tmp_path: Path) -> None:
    ranks(2, arguments(folder, tmp_path / "run", "--set", "steps=3", *TOO_FAST), tmp_path)
    entries = quarantined(tmp_path / "run")
    assert [(entry["step"], entry["rank"]) for entry in entries] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    before = weights(tmp_path / "run", 1)
    assert all(torch.equal(value, before[name]) for name, value in weights(tmp_path / "run", 3).items())


def test_gradients_that_no_loss_scale_makes_finite_end_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is finite all the while, and an overflow of fp16 alone is no fault."""
    monkeypatch.setattr(taken, "LEAST", 2.0**14)
    monkeypatch.setattr(taken, "losses", lambda *given, **told: _without_end(*losses(*given, **told)))
    output = tmp_path / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=9", "watch.max_skips=1", "precision=fp16")) == 1
    assert "gradient not finite" in capsys.readouterr().err
    assert [entry["step"] for entry in quarantined(output)] == [2, 3]
    assert [line["skipped"] for line in trace(output)] == [None, None, "gradient_not_finite"]


def _without_end(summed: torch.Tensor, each: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    summed.register_hook(lambda gradient: gradient * math.inf)
    return summed, each
