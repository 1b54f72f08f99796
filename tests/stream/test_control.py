"""The control log: ahead of planning or refused, the same after kills, replayed into the same mixture."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mmdata.errors import RunError, SpecError
from mmdata.stream.control import ControlLog, Entry, from_losses
from mmdata.stream.mix import Mixer, Part
from mmdata.stream.mixture import DatasetSpec
from mmdata.stream.order import Order
from mmdata.stream.schedule import weights_of


def test_entries_hold_from_their_block_on(tmp_path: Path) -> None:
    log = ControlLog(tmp_path)
    assert log.weights(0) == {}
    log.append(Entry(block=3, weights={"a": 0.1}))
    log.append(Entry(block=5, weights={"b": 2}, note="by hand"))
    assert [log.weights(block) for block in (1, 2)] == [{}, {}]
    assert log.weights(4) == {"a": Fraction(1, 10)}
    assert log.weights(5) == {"a": Fraction(1, 10), "b": 2}
    assert ControlLog(tmp_path).weights(5) == log.weights(5)
    assert [json.loads(line)["block"] for line in (tmp_path / "control.jsonl").read_text().splitlines()] == [3, 5]


def test_what_is_planned_cannot_be_changed(tmp_path: Path) -> None:
    log, other = ControlLog(tmp_path), ControlLog(tmp_path)
    log.weights(7)
    with pytest.raises(SpecError, match="block 7 is planned already; give effect from 8"):
        log.append(Entry(block=7, weights={"a": 1}))
    other.weights(9)
    log.append(Entry(block=9, weights={"a": 1}))
    with pytest.raises(RunError, match="takes effect at block 9, and this process has planned block 9"):
        other.weights(10)
    with pytest.raises(SpecError, match="comes before that of the last entry, 9"):
        log.append(Entry(block=8, weights={"a": 1}))


def test_half_a_line_of_a_killed_process_is_no_entry(tmp_path: Path) -> None:
    log = ControlLog(tmp_path)
    log.append(Entry(block=1, weights={"a": 1}))
    with log.path.open("ab") as file:
        file.write(b'{"block": 2, "wei')
    again = ControlLog(tmp_path)
    assert len(again) == 1
    again.append(Entry(block=4, weights={"a": 3}))
    assert [entry["block"] for entry in map(json.loads, log.path.read_text().splitlines())] == [1, 4]
    assert log.weights(4) == {"a": 3}


def test_another_log_than_the_state_s_is_refused(tmp_path: Path) -> None:
    log = ControlLog(tmp_path)
    log.append(Entry(block=1, weights={"a": 1}))
    saved = len(log), log.digest()
    log.append(Entry(block=2, weights={"a": 2}))
    ControlLog(tmp_path).check(*saved)
    log.path.write_bytes(log.path.read_bytes().splitlines(keepends=True)[0])
    with pytest.raises(SpecError, match="1 entries, 2 when the state was saved; restore it"):
        ControlLog(tmp_path).check(2, log.digest())
    log.path.write_text('{"block": 1, "weights": {"a": 7.0}}\n')
    with pytest.raises(SpecError, match="first 1 entries are not those of the state"):
        ControlLog(tmp_path).check(*saved)
    log.path.write_text("{}\n")
    with pytest.raises(RunError, match="line 1 is no entry"):
        ControlLog(tmp_path)


def test_losses_become_recorded_weights() -> None:
    base = {"a": 0.5, "b": 0.3, "c": 0.2}
    entry = from_losses(4, {"a": 2.0, "b": 3.0}, base, temperature=0.5)
    ratio = (entry.weights["b"] / entry.weights["a"]) / (base["b"] / base["a"])
    assert ratio == pytest.approx(np.exp(1 / 0.5), rel=1e-4)
    assert sum(entry.weights.values()) == pytest.approx(0.8, abs=1e-5), "c, which reports nothing, keeps its share"
    assert from_losses(4, {"a": 700.0, "b": 1e4}, base, temperature=0.1).weights["b"] == pytest.approx(0.8)
    for losses, temperature in (({"a": float("nan")}, 1.0), ({"z": 1.0}, 1.0), ({"a": 1.0}, 0.0), ({}, 1.0)):
        with pytest.raises(SpecError):
            from_losses(4, losses, base, temperature=temperature)


def mixture(folder: Path) -> tuple[Mixer, ControlLog]:
    log = ControlLog(folder)
    specs = [DatasetSpec(path="a", weight=1), DatasetSpec(path="b", weight=1)]
    made = [Part(name=each.title, order=Order(n=1000, shuffle="global", seed=0)) for each in specs]
    weights = weights_of(specs, (), block_samples=100, controlled=log.weights)
    return Mixer(made, weights, block_samples=100, weigh_by="samples"), log


def test_replaying_the_log_gives_the_same_draws(tmp_path: Path) -> None:
    live, log = mixture(tmp_path)
    cursors, blocks = live.first(), []
    for number in range(6):
        if number in (1, 3):
            log.append(Entry(block=number + 1, weights={"b": number * 3.0}))
        draws, cursors = live.block(cursors, number, lambda draws: np.ones(len(draws), np.int64))
        blocks.append((draws.dataset.tolist(), draws.position.tolist()))
    shares = [float(np.mean(dataset)) for dataset, _ in blocks]
    assert shares == pytest.approx([0.5, 0.5, 0.75, 0.75, 0.9, 0.9], abs=0.02)
    replayed, _ = mixture(tmp_path)
    cursors = replayed.first()
    for number in range(6):
        draws, cursors = replayed.block(cursors, number, lambda draws: np.ones(len(draws), np.int64))
        assert (draws.dataset.tolist(), draws.position.tolist()) == blocks[number]


def test_a_real_other_process_sees_what_was_appended(tmp_path: Path) -> None:
    code = (
        "import sys; from mmdata.stream.control import ControlLog; log = ControlLog(sys.argv[1]);"
        "print('ready', flush=True); block = int(input()); print(dict(log.weights(block)))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        ControlLog(tmp_path).append(Entry(block=2, weights={"a": 0.25}))
        answer, _ = other.communicate("2\n", timeout=60)
    assert answer.strip() == "{'a': Fraction(1, 4)}"
