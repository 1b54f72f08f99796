"""What the log says of a step: tokens by what they are, rates, norms, seconds; the same from any number of ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmtrain import sft
from mmtrain.collate import PackedCollator, PaddedCollator
from mmtrain.monitor import line, most_over_mean, steady, tokens
from tests.mmtrain.ranks import run as ranks
from tests.mmtrain.test_sft import arguments
from tests.test_collate import packed


def log(output: Path) -> list[dict[str, Any]]:
    return [json.loads(each) for each in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("monitor") / "run"
    rules = "parameters=[{match: 'vision.*', lr: 0.001}, {match: 'language.*', layer_decay: 0.5}]"
    assert sft.main(arguments(folder, output, "--set", "steps=4", "global_batch=5", rules)) == 0
    return output


def test_tokens_add_up(run: Path) -> None:
    """Placeholders, text, padding: 16 placeholders for each picture of 4 x 4 patches, one picture a sample."""
    for each in log(run):
        assert each["tokens"] == each["tokens_real"] + each["tokens_padding"]
        assert each["tokens_real"] == each["tokens_text"] + each["tokens_media"]
        assert 0 < each["targets"] < each["tokens_text"]
        assert each["tokens_media"] == 16 * each["samples"]
        assert each["fill"] == pytest.approx(each["tokens_real"] / each["tokens"], abs=1e-6)


def test_padding_is_none_of_the_real_tokens() -> None:
    given = [packed([5, 3, 4]), packed([7], seed=1)]
    real = sum(len(pack.input_ids) for pack in given)
    row = tokens([PackedCollator(pad_to=64)(given)])
    assert (row.total, row.real, row.padding) == (64, real, 64 - real)
    padded = PaddedCollator()(given)
    found = tokens([padded])
    assert found.real == row.real == int(padded["attention_mask"].sum())
    assert found.padding == int((padded["attention_mask"] == 0).sum())
    assert found.media == row.media == 4
    assert found.target == row.target
    assert tokens([{**padded, "keys": []}]).total == 0  # a dummy


def test_rates_and_norms_are_told_by_part(run: Path) -> None:
    first = log(run)[0]
    assert {name for name in first if name.startswith("grad_norm/")} == {
        "grad_norm/vision",
        "grad_norm/connector",
        "grad_norm/language",
        "grad_norm/head",
    }
    parts = [value for name, value in first.items() if name.startswith("grad_norm/")]
    assert math.sqrt(sum(value**2 for value in parts)) == pytest.approx(first["grad_norm"], rel=1e-5)
    assert first["lr/vision"] == pytest.approx(first["lr/connector"] / 3)
    assert first["lr/language.1"] == pytest.approx(first["lr/language.0"] / 2)


def test_seconds_speeds_and_memory(run: Path) -> None:
    for each in log(run):
        assert each["seconds/step"] >= each["seconds/compute"] > 0
        whole = each["seconds/load"] + each["seconds/step"]
        assert each["speed/total"] == pytest.approx(each["speed/real"] + each["speed/padding"], abs=1e-3)
        assert each["speed/real"] == pytest.approx(each["tokens_real"] / whole, rel=0.02)
        assert each["memory/rss_mib"] > 100
        assert each["balance/predicted"] == each["balance/actual"] == 1.0
    assert sum(each["seconds/decode"] for each in log(run)) > 0


def test_tensorboard_has_what_the_log_has(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = events.Tags()["scalars"]
    assert {"loss", "lr/vision", "grad_norm/head", "speed/real", "memory/rss_mib", "fill"} <= set(scalars)
    assert [event.value for event in events.Scalars("loss")] == pytest.approx([each["loss"] for each in log(run)])


def test_two_ranks_log_the_sums_of_both(folder: Path, run: Path, tmp_path: Path) -> None:
    rules = "parameters=[{match: 'vision.*', lr: 0.001}, {match: 'language.*', layer_decay: 0.5}]"
    ranks(2, arguments(folder, tmp_path / "run", "--set", "steps=4", "global_batch=5", rules), tmp_path)
    for one, two in zip(log(run), log(tmp_path / "run"), strict=True):
        assert steady(one).keys() == steady(two).keys()
        for name, value in steady(one).items():
            assert two[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
        assert 1 <= two["balance/predicted"] <= 2  # five packs for two
        assert 1 <= two["balance/actual"] <= 2


def test_what_a_person_sees(run: Path) -> None:
    values = log(run)[0]
    assert "tok/s" in line(values)
    assert "SKIPPED: loss spike" in line({**values, "skipped": "loss_spike"})
    assert "nan" in line({**values, "loss": math.nan})
    assert most_over_mean([2.0, 1.0, 3.0]) == 1.5
