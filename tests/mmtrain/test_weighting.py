"""What targets weigh, against a loop over tokens; schedules, tasks and samples through the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.collate import PackedCollator, PaddedCollator
from mmdata.errors import DataError
from mmdata.labels import IGNORE, KINDS, PROMPT, positions
from mmdata.stream.reader import weight_of
from mmdata.templates import encode, get_template
from mmdata.types import Origin, Packed, Sample, Text
from mmtrain import sft
from mmtrain.losses import Norm
from mmtrain.weighting import WeightPhase, by_task, problem, step_weights
from tests.dataset_fixture import write_dataset
from tests.mmtrain import ranks
from tests.mmtrain.test_sft import arguments
from tests.tokenizer_fixture import small_tokenizer

ORIGIN = Origin(uri="tests", row=0)
PHASES = (
    WeightPhase(until=0.3),
    WeightPhase(until=0.7, prompt=0.5, box=3.0),
    WeightPhase(prompt=0.0, response=2.0, special=0.5),
)


def pack(seed: int, lengths: list[int]) -> Packed:
    draw = np.random.default_rng(seed)
    total = sum(lengths)
    cu = np.cumsum([0, *lengths]).astype(np.int32)
    labels = np.where(draw.random(total) < 0.7, draw.integers(1, 9, total), IGNORE)
    labels[cu[:-1]] = IGNORE
    classes = np.where(
        labels == IGNORE, 0, draw.integers(1, 1 + len(KINDS), total) + PROMPT * draw.integers(0, 2, total)
    )
    return Packed(
        input_ids=draw.integers(1, 9, total).astype(np.int32),
        labels=labels,
        loss_weights=draw.random(total).astype(np.float32),
        position_ids=positions(cu),
        cu_seqlens=cu,
        keys=tuple(f"{seed}-{n}" for n in range(len(lengths))),
        token_classes=classes.astype(np.int8),
        tasks=tuple(draw.choice(["ocr", "vqa", "asr"], len(lengths)).tolist()),
        sample_weights=tuple(draw.random(len(lengths)).tolist()),
    )


def brute_force(packs: list[Packed], norm: Norm, progress: float, tasks: dict[str, float]) -> list[float]:
    """The weights of all labels, said as the sentence says it."""
    phase = next(phase for phase in PHASES if progress < phase.until)
    result: list[float] = []
    for each in packs:
        assert each.token_classes is not None
        for segment, (start, stop) in enumerate(zip(each.cu_seqlens[:-1], each.cu_seqlens[1:], strict=True)):
            own = []
            for t in range(start, stop):
                code = int(each.token_classes[t])
                if each.labels[t] == IGNORE:
                    own.append(0.0)
                    continue
                kind = KINDS[code % PROMPT - 1]
                side = phase.prompt if code >= PROMPT else phase.response
                extra = {"special": phase.special, "box": phase.box, "entity": phase.entity}.get(kind, 1.0)
                own.append(float(each.loss_weights[t]) * side * extra)
            total = sum(own)
            share = {"token": 1.0, "sample": total, "sqrt": total**0.5}[norm]
            more = each.sample_weights[segment] * tasks.get(each.tasks[segment], 1.0)
            result += [weight / share * more if share else 0.0 for weight in own]
    return result


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    norm=st.sampled_from(["token", "sample", "sqrt"]),
    step=st.integers(0, 9),
    pad=st.integers(0, 3),
)
def test_weights_are_their_sentence(seed: int, lengths: list[int], norm: Norm, step: int, pad: int) -> None:
    """In packed rows, several packs to a row, padded at the end or not; and in rows of their own."""
    packs, tasks = [pack(seed, lengths), pack(seed + 1, lengths[::-1])], {"ocr": 0.25, "vqa": 0.0}
    told: dict[str, Any] = {"phases": PHASES, "progress": step / 10, "tasks": tasks}
    expected = brute_force(packs, norm, step / 10, tasks)
    row = PackedCollator(pad_id=0, pad_to=len(expected) + pad)(packs)
    found = step_weights(row, norm, **told)
    assert found.tolist() == pytest.approx([*expected, *[0.0] * pad], rel=1e-5, abs=1e-7)

    padded = PaddedCollator(pad_id=0)(packs)
    other = step_weights(padded, norm, **told)[padded["attention_mask"].flatten() == 1]
    assert other.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7)

    losses = torch.rand(len(expected) + pad)
    sums = by_task(row, losses, found)
    for task in ("asr", "ocr", "vqa"):
        top = bottom = 0.0
        at = 0
        for each in packs:
            for own, length in zip(each.tasks, np.diff(each.cu_seqlens), strict=True):
                if own == task:
                    top += float((losses * found)[at : at + length].sum())
                    bottom += float(found[at : at + length].sum())
                at += int(length)
        assert sums.get(task, (0.0, 0.0)) == pytest.approx((top, bottom), rel=1e-5, abs=1e-6)


def test_classes_tell_answers_from_what_is_asked() -> None:
    """With everything trained, what is in answers is what `train_on: assistant` trains."""
    tokenizer: Any = small_tokenizer()
    parts = (
        Text(text="What is at <box>1 2 3 4</box>?", role="user"),
        Text(text="A <ref>cat</ref> at <box>5 6 7 8</box>.", role="assistant"),
        Text(text="And now?", role="user"),
        Text(text="Nothing.", role="assistant"),
    )
    sample = Sample(key="0", parts=parts, origin=ORIGIN)
    every, answers = (
        encode([sample], tokenizer, get_template("chatml", tokenizer=tokenizer, train_on=on))[0]
        for on in ("all", "assistant")
    )
    assert not isinstance(every, DataError)
    assert not isinstance(answers, DataError)
    inside = {t for span in every.spans if span.answer for t in range(span.start, span.stop)}
    outside = {t for span in every.spans if not span.answer for t in range(span.start, span.stop)}
    assert inside == {t for span in answers.spans for t in range(span.start, span.stop)}
    assert all(span.answer for span in answers.spans)
    assert outside
    assert not inside & outside
    assert {span.kind for span in every.spans if not span.answer} >= {"instruction", "box"}


def test_a_sample_weighs_what_its_meta_says() -> None:
    def weight(**meta: Any) -> float:
        return weight_of(Sample(key="7", parts=(), meta=meta, origin=ORIGIN), "quality")

    assert (weight(), weight(quality=0.5), weight(quality="2")) == (1.0, 0.5, 2.0)
    assert weight_of(Sample(key="7", parts=(), meta={"quality": 3}, origin=ORIGIN), None) == 1.0
    for wrong in (-1, "much", float("inf"), float("nan"), [1]):
        with pytest.raises(DataError, match="7: meta quality is"):
            weight(quality=wrong)


def test_schedules_that_say_nothing_are_refused() -> None:
    assert problem(PHASES, "all") is None
    assert "ascending order" in str(problem((WeightPhase(until=0.5), WeightPhase(until=0.5)), "all"))
    assert "what comes after 0.5" in str(problem((WeightPhase(until=0.5),), "all"))
    assert "only with data.train_on: all" in str(problem((WeightPhase(prompt=0.5),), "assistant"))
    assert problem((WeightPhase(prompt=0.0),), "assistant") is None


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_the_command_weighs_by_the_step(folder: Path, tmp_path: Path) -> None:
    """Uniform weights leave the loss as it is; others change it from their step on, and not the data."""
    told = ["--set", "steps=4", "optim.warmup_steps=0"]
    assert sft.main(arguments(folder, tmp_path / "plain", *told)) == 0
    late = "token_weight_schedule=[{until: 0.5, response: 3.0}, {special: 0.0}]"
    assert sft.main(arguments(folder, tmp_path / "late", *told, late)) == 0
    plain, later = (lines(tmp_path / name) for name in ("plain", "late"))
    assert [line["keys_crc32c"] for line in later] == [line["keys_crc32c"] for line in plain]
    for a, b in zip(plain[:2], later[:2], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)
    assert all(abs(a["loss"] - b["loss"]) > 1e-3 for a, b in zip(plain[2:], later[2:], strict=True))


def test_samples_and_tasks_weigh_through_the_command(tmp_path: Path) -> None:
    """Fields of the samples' meta in a dataset on the disk, by whatever names; on one rank and on two."""
    kinds = ("ocr", "vqa", None)
    meta: dict[int, dict[str, object]] = {
        row: {"quality": (0.5, 2, "1.5")[row // 3 % 3], **({"kind": kinds[row % 3]} if kinds[row % 3] else {})}
        for row in range(24)
    }
    source = write_dataset(tmp_path / "dataset", samples=24, meta=meta)
    plain = ["--set", "steps=3", "optim.warmup_steps=0", "global_batch=4", "data.task_field=kind"]
    told = [*plain, "data.weight_field=quality", "task_weights={vqa: 0.25}"]
    assert sft.main(arguments(source, tmp_path / "plain", *plain)) == 0
    assert sft.main(arguments(source, tmp_path / "one", *told)) == 0
    ranks.run(2, arguments(source, tmp_path / "two", *told), tmp_path / "said")
    even, one, two = (lines(tmp_path / name) for name in ("plain", "one", "two"))
    for a, b, c in zip(even, one, two, strict=True):
        assert a["keys_crc32c"] == b["keys_crc32c"] == c["keys_crc32c"]
        names = {name for name in b if name.startswith("loss/")}
        assert names == {name for name in c if name.startswith("loss/")}
        assert names <= {"loss/ocr", "loss/vqa", "loss/dataset"}
        for name in ("loss", "grad_norm", *names):
            assert b[name] == pytest.approx(c[name], rel=1e-4), name
    assert {name for line in one for name in line if name.startswith("loss/")} == {
        "loss/ocr",
        "loss/vqa",
        "loss/dataset",
    }
    # The weights count, in every sum; a mean over all is that of the tasks by what they weigh.
    assert abs(one[0]["loss"] - even[0]["loss"]) > 1e-4


def test_tasks_that_no_sample_has_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before a run of its first step, after the first epoch, and at the end, also where a run goes on; what weighs
    nothing is there."""
    meta: dict[int, dict[str, object]] = {row: {"kind": ("ocr", "vqa")[row % 2]} for row in range(12)}
    source = write_dataset(tmp_path / "dataset", samples=12, meta=meta)
    told = [
        "--set",
        "global_batch=1",
        "data.task_field=kind",
        "data.max_length=200",
        "data.epochs=2",
        "checkpoint.every=1",
    ]
    given = [*told, "task_weights={orc: 2.0, vqa: 0.0, zebra: 1.0}"]

    def said(*more: str) -> list[str]:
        assert sft.main(arguments(source, tmp_path / "run", *more)) == 0
        return [line for line in capsys.readouterr().out.splitlines() if "task_weights: no sample" in line]

    (ahead,) = said(*given, "steps=40", "--dry-run")
    assert ahead.startswith("tasks  task_weights: no sample of the first step is of ")
    first, last = said(*given, "steps=40")
    lost = "is of 'orc' (did you mean 'ocr'?), 'zebra' (known: ocr, vqa)"
    assert first == f"tasks  task_weights: no sample of the first epoch {lost}"
    steps = len(lines(tmp_path / "run"))
    assert 2 < steps < 40, "two epochs"
    assert last == f"tasks  task_weights: no sample of {steps} steps {lost}"
    newest = max((tmp_path / "run" / "checkpoints").glob("*[0-9]"))
    shutil.rmtree(newest)
    assert said(*given, "steps=40") == [last]
    shutil.rmtree(tmp_path / "run")
    assert said(*told, "task_weights={ocr: 2.0, vqa: 0.0}", "steps=40") == []
