"""Evaluation: the losses that training has, answers that plain `generate` gives, and a training that knows nothing of
it (training.md, 45)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdata.labels import IGNORE
from mmdata.types import World
from mmtrain import sft
from mmtrain.answers import choice_scores, generated, generating, inputs_of, prompt_of, prompts, reference_of
from mmtrain.evaluate import main as command
from mmtrain.examine import read
from mmtrain.held_out import EvaluationSpec, evaluate, held_out
from mmtrain.restore import Restored, adopted, restore
from mmtrain.spec import TrainSpec
from tests.mmtrain.ranks import run as ranks
from tests.mmtrain.test_sft import arguments, same_weights, trace


def told(folder: Path, *more: str) -> list[str]:
    data = f"evaluation.data={{photos: {{dataset: {folder}, max_length: 160}}}}"
    return [data, "evaluation.every=2", "evaluation.generate=2", "evaluation.max_new_tokens=4", *more]


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("plain") / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=4")) == 0
    return output


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("held") / "run"
    metrics = "evaluation.metrics=[exact_match, anls]"
    assert sft.main(arguments(folder, output, "--set", "steps=4", *told(folder, metrics))) == 0
    return output


@pytest.fixture(scope="module")
def opened(plain: Path) -> Restored:
    return restore(plain)


def test_training_knows_nothing_of_evaluations(run: Path, plain: Path) -> None:
    assert trace(run) == trace(plain)
    assert same_weights(run, plain)


def test_what_is_found_is_logged_and_shown(run: Path) -> None:
    found = read(run)
    assert [line["step"] for line in found] == [2, 4]
    assert found[1]["loss"] == found[1]["photos/loss"] < found[0]["loss"]
    assert {"photos/exact_match", "photos/anls"} <= found[0].keys()
    page = (run / "samples" / "step-00000004.html").read_text()
    assert page.count('<span class="chip">answered</span>') == 2
    assert page.count("data:image/webp") == 2
    assert "<script" not in page
    assert (run / "checkpoints" / "best").resolve().name == "step-00000004"


@pytest.mark.parametrize("choice", ["auto", "raw"])
def test_averaged_weights_are_what_is_measured(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], choice: str
) -> None:
    """Unless told otherwise, by the run as by the command; training goes on with its own."""
    output = tmp_path / "run"
    average = ["steps=4", "ema={decay: 0.7}"]
    measured = [*told(folder), "evaluation.generate=0", f"evaluation.weights={choice}"]
    assert sft.main(arguments(folder, output, "--set", *average, *measured)) == 0
    assert sft.main(arguments(folder, tmp_path / "plain", "--set", *average)) == 0
    assert trace(output) == trace(tmp_path / "plain")
    assert same_weights(output, tmp_path / "plain")
    losses = {}
    for weights in ("ema", "raw", "auto"):
        capsys.readouterr()
        assert command([str(output), "--weights", weights, "--generate", "0", "--json"]) == 0
        losses[weights] = json.loads(capsys.readouterr().out)["values"]["loss"]
    assert losses["auto"] == losses["ema"] != losses["raw"]
    assert read(output)[-1]["loss"] == pytest.approx(losses[choice], abs=1e-6)


def test_averages_that_are_not_kept_are_not_measured(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path, "--set", *told(folder, "evaluation.weights=ema"))) == 2
    assert "evaluation.weights: ema: the run averages none" in capsys.readouterr().err
    assert command([str(run), "--weights", "ema"]) == 2
    assert "keeps no averaged weights" in capsys.readouterr().err


def test_the_loss_is_the_mean_over_all_targets(opened: Restored, folder: Path) -> None:
    """Against transformers' own loss, sample by sample."""
    told = EvaluationSpec(data={"a": {"dataset": str(folder), "max_length": 160}})  # type: ignore[dict-item]
    family = sft.make_stream(opened.spec, opened.tokenizer, World(), None).family
    assert family is not None
    streams = held_out(told, opened.spec, family)
    strategy = adopted(opened, streams["a"])
    everything: dict[str, Any] = {"spec": opened.spec, "model": opened.model, "tokenizer": opened.tokenizer}
    found = evaluate(told, streams, **everything, strategy=strategy, world=World())
    again = evaluate(told, streams, **everything, strategy=strategy, world=World())
    assert found == again
    total = count = 0.0
    opened.model.eval()
    with generating(opened.model), torch.no_grad():
        for packed, _, _ in prompts(streams["a"], 99):
            inputs = inputs_of_whole(packed)
            targets = int((inputs["labels"][:, 1:] != IGNORE).sum())
            total += float(opened.model(**inputs).loss) * targets
            count += targets
    assert found.values["loss"] == pytest.approx(total / count, abs=1e-5)


def inputs_of_whole(packed: Any) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.from_numpy(packed.input_ids).long()[None],
        "labels": torch.from_numpy(packed.labels)[None],
        "pixel_values": torch.from_numpy(packed.media["pixel_values"]),
    }


def test_answers_are_those_of_a_search_without_a_cache(opened: Restored, folder: Path) -> None:
    told = EvaluationSpec(data={"a": {"dataset": str(folder), "max_length": 160}})  # type: ignore[dict-item]
    stream = sft.make_stream(opened.spec, opened.tokenizer, World(), None)
    assert stream.family is not None
    streams = held_out(told, opened.spec, stream.family)
    adopted(opened, streams["a"])
    before = opened.model.config._attn_implementation
    opened.model.eval()
    for packed, _, _ in prompts(streams["a"], 2):
        inputs = inputs_of(packed, torch.device("cpu"))
        with generating(opened.model), torch.no_grad():
            found = generated(opened.model, inputs, 5)
            ids = inputs["input_ids"]
            for _ in range(len(found)):
                logits = opened.model(input_ids=ids, pixel_values=inputs["pixel_values"], use_cache=False).logits
                ids = torch.cat([ids, logits[:, -1].argmax(-1)[:, None]], 1)
        assert found == ids[0, inputs["input_ids"].shape[1] :].tolist()
        assert prompt_of(packed).input_ids.tolist() + reference_of(packed) == packed.input_ids.tolist()
    assert opened.model.config._attn_implementation == before


def test_choices_are_scored_by_the_mean_of_their_tokens(opened: Restored, folder: Path) -> None:
    told = EvaluationSpec(data={"a": {"dataset": str(folder), "max_length": 160}})  # type: ignore[dict-item]
    stream = sft.make_stream(opened.spec, opened.tokenizer, World(), None)
    assert stream.family is not None
    streams = held_out(told, opened.spec, stream.family)
    strategy = adopted(opened, streams["a"])
    opened.model.eval()
    choices = ["a ginger cat", "a cup of coffee on a wooden table"]
    ((packed, _, _),) = prompts(streams["a"], 1)
    with generating(opened.model), torch.no_grad():
        cpu = torch.device("cpu")
        found = choice_scores(opened.model, opened.tokenizer, packed, choices, strategy, cpu)
        for score, choice in zip(found, choices, strict=True):
            ids = opened.tokenizer(choice, add_special_tokens=False)["input_ids"]
            prompt = inputs_of(packed, cpu)
            whole = torch.cat([prompt["input_ids"], torch.tensor([ids])], 1)
            logits = opened.model(input_ids=whole, pixel_values=prompt["pixel_values"], use_cache=False).logits
            logs = logits[0, -len(ids) - 1 : -1].log_softmax(-1)
            wanted = sum(float(logs[at, token]) for at, token in enumerate(ids)) / len(ids)
            assert score == pytest.approx(wanted, abs=1e-5)
        assert choice_scores(opened.model, opened.tokenizer, packed, ["", choices[0]], strategy, cpu) == [
            -math.inf,
            pytest.approx(found[0]),
        ]


def test_ranks_share_an_evaluation(folder: Path, run: Path, tmp_path: Path) -> None:
    metrics = "evaluation.metrics=[exact_match, anls]"
    ranks(2, arguments(folder, tmp_path / "run", "--set", "steps=4", *told(folder, metrics)), tmp_path)
    for one, two in zip(read(run), read(tmp_path / "run"), strict=True):
        assert two == pytest.approx({**one, "seconds": two["seconds"]}, abs=1e-4)


def test_no_better_for_too_long_ends_a_run_and_it_stays_ended(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate of nearly nothing: no evaluation is better by as much as is asked."""
    more = ["optim.lr=1e-9", "evaluation.every=1", "evaluation.generate=0", "evaluation.batches=1"]
    more += ["early_stopping.patience=1", "early_stopping.min_delta=0.5", "checkpoint.every=2"]
    output = tmp_path / "run"
    assert sft.main(arguments(folder, output, "--set", "steps=9", *told(folder), *more)) == 0
    assert "stopped after 3 steps" in capsys.readouterr().out
    assert len(trace(output)) == 3
    assert sft.main(arguments(folder, output, "--set", "steps=9", *told(folder), *more)) == 0
    assert len(trace(output)) == 3
    best = min(read(output), key=lambda line: line["loss"])["step"]
    assert (output / "checkpoints" / "best").resolve().name == f"step-{best:08d}"


def test_a_stream_that_ends_first_is_evaluated_at_its_end(folder: Path, tmp_path: Path) -> None:
    output, more = tmp_path / "run", ["data.epochs=1", "steps=99", "evaluation.every=4", "evaluation.generate=0"]
    assert sft.main(arguments(folder, output, "--set", *told(folder), *more)) == 0
    steps = len(trace(output))
    assert [line["step"] for line in read(output)] == [*range(4, steps, 4), steps]
    best = min(read(output), key=lambda line: line["loss"])["step"]
    assert (output / "checkpoints" / "best").resolve().name == f"step-{best:08d}"
    assert sft.main(arguments(folder, output, "--set", *told(folder), *more)) == 0
    assert len(read(output)) == len(range(4, steps, 4)) + 1


def test_held_out_samples_become_tokens_as_the_training_s_do(folder: Path, tmp_path: Path) -> None:
    """A loss over another template's tokens would say nothing of what was taught."""
    data = {"dataset": str(folder), "template": "basic", "max_length": 160, "token_weights": {"special": 0.5}}
    own = {"plain": {"dataset": str(folder)}, "other": {"dataset": str(folder), "template": "caption"}}
    alone = {"dataset": str(folder), "packing": "none"}
    told = {"data": data, "output": str(tmp_path / "run"), "evaluation": {"data": {**own, "alone": alone}}}
    spec = TrainSpec.model_validate(told)
    assert spec.evaluation is not None
    found = spec.evaluation.data
    assert [each.template for each in found.values()] == ["basic", "caption", "basic"]
    assert [each.max_length for each in found.values()] == [160, 160, None]
    assert {each.token_weights.special for each in found.values()} == {0.5}
    assert {each.shuffle for each in found.values()} == {"global"}
    assert TrainSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_kill_before_the_best_is_marked_loses_nothing(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    more = arguments(folder, output, "--set", "steps=4", *told(folder), "evaluation.generate=0")
    assert sft.main(more) == 0
    links = output / "checkpoints"
    assert (links / "best").resolve().name == "step-00000004"
    (links / "best.json").write_text(
        json.dumps({"step": 2, "metric": "loss", "value": 9.0, "checkpoint": "step-00000002"})
    )
    (links / "best").unlink()
    (links / "best").symlink_to("step-00000002")
    assert sft.main(more) == 0
    assert (links / "best").resolve().name == "step-00000004"
    assert json.loads((links / "best.json").read_text())["value"] == read(output)[-1]["loss"]
