"""Packed pairs are pairs alone; a run begins at log 2, asks its reference once, and goes on exactly after a kill."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdata import StreamingDataset
from mmdata.collate import PaddedCollator, model_inputs
from mmdata.labels import IGNORE
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed
from mmtrain import examine, export, replay, run, sft, suspects, suspects_page
from mmtrain.preference import reference, step
from mmtrain.preference.step import MEASURES
from mmtrain.restore import restore
from mmtrain.spikes import Spike
from tests.mmtrain.balance.conftest import twice
from tests.mmtrain.gradients import main as with_gradients
from tests.mmtrain.test_sft import CONFIG, same_weights, trace
from tests.preferences import COUNT

SMALL = [
    "steps=8",
    "checkpoint.every=4",
    "checkpoint.keep=9",
    "global_batch=4",
    "tokenizer.vocab_size=300",
    "model={vision: {hidden: 32, layers: 1, heads: 2}, language: {hidden: 48, layers: 2, heads: 2}, image_size: 28}",
    "optim={lr: 3.0e-3, schedule: constant}",
]


def arguments(dataset: Path, output: Path, *more: str, data: str = "") -> list[str]:
    told = f"data={{dataset: {dataset}, template: basic, max_length: 400, epochs: null, {data}}}"
    cache = output.parent / "cache"
    how = f"preference={{beta: 0.5, cache: {cache}}}"
    return ["--config", str(CONFIG), "--set", *SMALL, told, f"output={output}", how, *more]


def test_packed_pairs_are_pairs_alone(
    preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One step over the whole dataset: packed, every pair a row of its own, and padded: equal loss, gradients and
    log-probabilities (1e-5), which are those of the model alone. The second and third run ask no reference."""
    jobs: list[Any] = []
    real = reference.referenced

    def seen(job: Any, *more: Any) -> Any:
        jobs.append((job, found := real(job, *more)))
        if len(jobs) == 1:
            _as_the_model_alone(job, found[0])
        return found

    monkeypatch.setattr(reference, "referenced", seen)
    ways = {
        "packed": ["packs_per_forward=2"],
        "alone": ["data.packing=none", "packs_per_forward=1"],
        "padded": ["collate=padded", "packs_per_forward=2"],
    }
    found, lines = {}, {}
    for name, more in ways.items():
        told = arguments(preferences, tmp_path / name, "steps=1", "global_batch=99", "optim.clip=null", *more)
        told = [word.replace("epochs: null", "epochs: 1") for word in told]
        assert with_gradients([str(tmp_path / f"{name}.pt"), *told]) == 0
        (found[name],) = torch.load(tmp_path / f"{name}.pt")
        lines[name] = trace(tmp_path / name)[0]
    said = capsys.readouterr().out
    assert said.count(f"{COUNT} pairs asked of the model as it begins") == 1
    assert len(re.findall(rf"{COUNT} pairs, as .*\.npz has them", said)) == 2
    packed = lines["packed"]
    assert packed["pairs"] == COUNT
    assert packed["packs"] < COUNT / 1.5
    assert packed["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert packed["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert packed["logps/chosen"] < -5
    assert max(float(each.abs().max()) for each in found["packed"]) > 1e-3
    for name in ("alone", "padded"):
        for measure in (*MEASURES, "loss", "loss/out"):
            if measure != "rewards/accuracies":  # of margins that are 0 but for rounding
                assert lines[name][measure] == pytest.approx(packed[measure], abs=1e-5), measure
        for one, two in zip(found[name], found["packed"], strict=True):
            assert float((one - two).abs().max()) <= 1e-5


def _as_the_model_alone(job: Any, known: reference.Reference) -> None:
    """Against log-softmax over the logits that `forward` makes of each conversation alone."""
    told = StreamSpec(
        dataset=job.spec.data.dataset, template="basic", max_length=400, packing="none", shuffle="none", pairs=True
    )
    packs = StreamingDataset(told, family=job.loader.dataset.family)
    table = known.tables[0]
    with torch.no_grad():
        for at, pack in enumerate(packs):
            assert isinstance(pack, Packed)
            batch = PaddedCollator(pad_id=job.tokenizer.pad_token_id)(pack)
            job.model.eval()
            logits = job.model(**model_inputs({name: v for name, v in batch.items() if name != "labels"})).logits
            labels = batch["labels"][:, 1:]
            each = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            expected = torch.where(labels != IGNORE, each, 0).sum(1)
            assert table[at].tolist() == pytest.approx(expected.tolist(), abs=1e-4)
            if at == 4:
                return


def test_a_run_learns_to_prefer_and_goes_on_exactly(
    preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Adapters beside a base that is the reference: killed and gone on with, its log and weights are the same; other
    weights are another reference; the export is a model."""
    output = tmp_path / "run"
    more = ["adapters=[{kind: lora, match: 'language\\..*(q|v)_proj', rank: 4}]", "preference.reference=base"]
    told = arguments(preferences, output, "optim.lr=3.0e-2", *more)
    again = twice(told, output, 4)
    lines = trace(output)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.05
    assert lines[-1]["rewards/margins"] > 0.1
    assert trace(again) == lines
    assert same_weights(again, output)
    said = capsys.readouterr().out
    assert said.count("asked of the model as it begins") == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert sft.main(arguments(preferences, tmp_path / "other", "steps=1", "seed=5")) == 0
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert export.main([str(output), "--output", str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "config.json").exists()
    found = replay.replay(restore(output, step=5), 5)
    assert found.loss == lines[5]["loss"]
    assert (found.logged, found.weights) == (True, 5)
    assert len(found.samples) == lines[5]["pairs"]
    assert sum(each.part for each in found.samples) == pytest.approx(found.loss, abs=1e-6)
    assert sum(each.loss for each in found.samples) / len(found.samples) == pytest.approx(found.loss, abs=1e-6)
    case = suspects.ranked(Spike(step=5, loss=found.loss, expected=0.5, score=math.inf), found)
    assert sum(each.excess for each in case.ranked) == pytest.approx(found.loss - 0.5, abs=1e-5)
    assert suspects_page.render(output, run.log_lines(output), [case]).count(b"<img") >= 1


def test_held_out_pairs_are_measured_as_trained_ones_are(preferences: Path, tmp_path: Path) -> None:
    """A step over all pairs sees them with the weights that were evaluated after the step before."""
    output = tmp_path / "run"
    told = arguments(preferences, output, "steps=2", "global_batch=5", "evaluation.every=1", data="shuffle: none")
    held = f"evaluation.data.all={{dataset: {preferences}, template: basic, max_length: 400}}"
    assert sft.main([*told, held]) == 0
    (first, _), (_, second) = examine.read(output), trace(output)
    assert second["pairs"] == COUNT
    for name in MEASURES:
        assert first[f"all/{name}"] == pytest.approx(second[name], abs=1e-5), name
    assert first["all/preference_loss"] == pytest.approx(second["loss"], abs=1e-5)
    assert first["all/loss/out"] == pytest.approx(second["loss/out"], abs=1e-5)
    assert first["all/rewards/margins"] > 0


@pytest.mark.parametrize(
    "change",
    [
        "model.vision.layer=-2",
        "quantise_aware=[{match: 'language\\..*_proj', bits: 2}]",
        "model.language.kv_heads=2",
    ],
)
def test_what_else_the_model_is_has_a_reference_of_its_own(
    preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    """The same weights that do something else (a layer less of the tower, rounded): a step begins at log 2 all the
    same. What is the same in other words asks no more."""
    size = "{hidden: 32, layers: 2, heads: 2}"
    model = f"model={{kind: native, audio: null, vision: {size}, language: {size}}}"
    for name, more in (("one", []), ("other", [change])):
        assert sft.main(arguments(preferences, tmp_path / name, "steps=1", model, *more)) == 0
        assert trace(tmp_path / name)[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), name
        assert trace(tmp_path / name)[0]["rewards/margins"] == pytest.approx(0, abs=1e-5), name
    asked = capsys.readouterr().out.count("asked of the model as it begins")
    assert asked == (1 if "kv_heads" in change else 2)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_damaged_file_is_made_again(preferences: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = arguments(preferences, tmp_path / "run", "steps=1")
    assert sft.main(told) == 0
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + b"x" + whole[len(whole) // 2 + 1 :])
    assert sft.main([word.replace("/run", "/more") for word in told]) == 0
    assert capsys.readouterr().out.count("asked of the model as it begins") == 2
    assert file.read_bytes() == whole


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (["preference=null", "data.pairs=true"], "rejected answers would be learned; set preference"),
        (["balance={kind: fixed, weights: {a: 1}}"], "pairs are weighed, not tokens; leave out balance"),
        (["preference.reference=base"], "the model has no adapters to leave out"),
        (["preference.label_smoothing=0.1"], "loss: dpo has none; set loss: robust"),
        (["data.augment={flip: 0.5}"], "data.augment: the reference is asked once"),
    ],
)
def test_mistakes_are_told(
    preferences: Path, tmp_path: Path, more: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(preferences, tmp_path / "run", *more)) == 2
    assert why in capsys.readouterr().err


def test_what_is_no_pair_weighs_nothing(preferences: Path) -> None:
    """A batch of a stream that has single answers only."""
    batch = {
        "labels": torch.tensor([[-100, 3, 4]]),
        "input_ids": torch.tensor([[2, 3, 4]]),
        "loss_weights": torch.ones(1, 3),
        "cu_seq_lens_q": torch.tensor([0, 3]),
    }
    found = step.pairs_of(batch)
    assert len(found.chosen) == 0
    assert float(found.weights.sum()) == 0
