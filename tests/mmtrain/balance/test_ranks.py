"""Weights of tasks on several processes are those of one, and those of inverse losses come back after a real kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmdata import specfile
from mmtrain import sft
from mmtrain.distributed import join, leave
from mmtrain.spec import TrainSpec
from tests.mmtrain import ranks
from tests.mmtrain.balance.conftest import arguments
from tests.mmtrain.test_sft import killed, same_weights, trace

TASKS = ("caption", "text")
KINDS = {
    "fixed": "balance={kind: fixed, weights: {caption: 0.3, text: 1.7}}",
    "inverse_loss": "balance={kind: inverse_loss, tasks: [caption, text], smoothing: 0.5}",
    "uncertainty": "balance={kind: uncertainty, tasks: [caption, text], initial: {text: 0.4}, lr: 0.1}",
    "gradnorm": "balance={kind: gradnorm, tasks: [caption, text], alpha: 0.5, lr: 0.1}",
}
STEPS = 4


def told(tasks: list[Path], kind: str, output: Path) -> list[str]:
    more = [f"steps={STEPS}", "checkpoint.every=2", "global_batch=4", "threads=1"]
    return arguments(tasks, output, *more, KINDS[kind])


def every_kind(given: list[str]) -> int:
    """What a rank does: a run of each kind, one after the other."""
    output, *folders = map(Path, given)
    world = join()
    try:
        for kind in KINDS:
            _, config, _, *sets = told(folders, kind, output / kind)
            sft.sft(specfile.load(TrainSpec, config, sets)[0], world=world)
    finally:
        leave()
    return 0


@pytest.fixture(scope="module")
def alone(tasks: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    assert every_kind([str(output), *map(str, tasks)]) == 0
    return output


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_weigh_tasks_as_one_process_does(count: int, alone: Path, tasks: list[Path], tmp_path: Path) -> None:
    """In every step the same weights, losses of tasks and loss of the step (1e-5); weights that are learned move."""
    ranks.run(count, [str(tmp_path), *map(str, tasks)], tmp_path / "said", every_kind)
    for kind in KINDS:
        one, several = trace(alone / kind), trace(tmp_path / kind)
        assert len(one) == len(several) == STEPS
        for a, b in zip(one, several, strict=True):
            assert a["keys_crc32c"] == b["keys_crc32c"]
            for name in ("loss", *(f"{what}/{task}" for what in ("weight", "loss") for task in TASKS)):
                assert b[name] == pytest.approx(a[name], abs=1e-5), (kind, a["step"], name)
        moved = any(line[f"weight/{task}"] != one[0][f"weight/{task}"] for line in one for task in TASKS)
        assert moved == (kind != "fixed")


def test_inverse_losses_weigh_alike_after_a_kill(alone: Path, tasks: list[Path], tmp_path: Path) -> None:
    """Killed with SIGKILL after the step behind its first checkpoint, the run has the very weights in its log."""
    command: list[Any] = told(tasks, "inverse_loss", tmp_path / "run")
    assert 3 <= killed(command, tmp_path / "run", 2, 0.0) <= STEPS
    assert sft.main(command) == 0
    lines = trace(tmp_path / "run")
    assert lines == trace(alone / "inverse_loss")
    assert len({line["weight/caption"] for line in lines}) == STEPS
    assert same_weights(tmp_path / "run", alone / "inverse_loss")
