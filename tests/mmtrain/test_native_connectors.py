"""Connectors in a whole model, through the command: tokens as planned, packed as alone, frozen parts untouched, runs
that go on and models that load again; auxiliary losses however a step is dealt; the Q-Former's stages."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import DataError, SpecError
from mmdata.types import Media, Packed
from mmtrain import certificate, checkpoint, export, sft
from mmtrain.adapters.spec import LoraSpec
from mmtrain.adapters.targets import find
from mmtrain.components import aliases
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import loss_sum
from tests.mmtrain import ranks
from tests.mmtrain.test_connectors import KINDS
from tests.mmtrain.test_sft import killed, same_weights, trace
from tests.mmtrain.tiny_models import vision, words

SMALL = {"hidden": 32, "layers": 1, "heads": 4}
MODEL: dict[str, Any] = {"kind": "native", "vision": SMALL, "audio": None, "language": SMALL}
MODEL["views"] = {"image": {"max_pixels": 96 * 96}}
FROZEN = {"match": r"(vision|language)\..*", "train": False}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision(image_size=56))).save_pretrained(folder)
    return str(folder)


def samples(data: Path, family: Any, count: int = 3) -> list[Packed]:
    stream = StreamingDataset(data, family=family, template="caption", yields="encoded", max_length=2000)
    return [sample for sample, _ in zip(stream, range(count), strict=False) if isinstance(sample, Packed)]


@pytest.mark.parametrize("told", KINDS, ids=lambda told: "-".join(map(str, told.values())))
def test_packed_is_alone_and_what_is_saved_loads(told: dict[str, Any], folder: Path, clip: str, tmp_path: Path) -> None:
    """Loss and gradients of a row are those of its samples; frozen parts have none; the config says all of the model.
    Features and placeholders are as many, or the model would refuse them."""
    square = told["kind"] in ("clusters", "pixel_shuffle", "perceiver")
    model = {**MODEL, "connector": told}
    if square:
        model |= {"vision": {"kind": "hf", "path": clip, "layer": -2}, "views": {}}
    spec = NativeSpec(**model)
    family = family_of(spec, words())
    made = build(spec, words(), seed=1)
    for parameter in made.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    named = aliases(made)
    mine = {name for name, alias in named.items() if alias.startswith("connector.vision_connector.")}
    assert mine == {name for name in named if "vision_connector" in name}
    assert mine
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name in mine)
    certificate.adopt(made, "varlen")
    found, collate = samples(folder, family), PackedCollator()
    batch = collate(found)
    tokens = int((batch["input_ids"] == made.config.image_token_id).sum())
    assert tokens == sum(slot.tokens for sample in found for slot in sample.slots)
    row, weight = loss_sum(made, batch)
    (row / weight).backward()
    together = {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}
    assert set(together) == mine
    made.zero_grad(set_to_none=True)
    for sample in found:
        (loss_sum(made, collate(sample))[0] / weight).backward()
    largest = max(float(gradient.abs().max()) for gradient in together.values())
    for name, gradient in together.items():
        assert (made.get_parameter(name).grad - gradient).abs().max() < 1e-5 * max(1.0, largest), name
    made.save_pretrained(tmp_path / "saved")
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", local_files_only=True).eval()
    weights = again.state_dict()
    assert weights.keys() == made.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in made.state_dict().items())
    inputs = {k: v for k, v in model_inputs(collate(found[0])).items() if k not in (*certificate.BORDERS, "labels")}
    with torch.no_grad():
        # Not to the bit: a convolution's kernel goes by where its weights lie in memory.
        torch.testing.assert_close(again(**inputs).logits, made.eval()(**inputs).logits, rtol=1e-5, atol=1e-6)


def test_a_row_of_images_and_frames_has_a_picture_for_each() -> None:
    """`first_tokens` finds every picture's first token, images and frames of videos, as the connector has them."""
    spec = NativeSpec(**{**MODEL, "connector": {"kind": "perceiver", "tokens": 2, "layers": 1, "heads": 2}})
    model = build(spec, words(), seed=0).model
    image, video = model.config.image_token_id, model.config.video_token_id
    ids = torch.tensor([[9, image, image, 9, video, video, video, video, 9, image, image]])
    grids = torch.tensor([[1, 2, 3], [2, 2, 2], [1, 1, 4]])
    batch = {"input_ids": ids, "image_grid_thw": grids, "pixel_values": torch.zeros(18, 768)}
    assert model.first_tokens(batch).tolist() == [1, 4, 6, 9]
    patches = model.patches(batch)
    assert patches.lengths == (6, 4, 4, 4)
    assert patches.grids == ((2, 3), (2, 2), (2, 2), (1, 4))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"connector": {"kind": "pixel_shufle"}}, "'mlp'"),
        ({"connector": {"kind": "perceiver", "querys": 3}}, "querys"),
        ({"connector": {"kind": "perceiver"}, "vision": {**SMALL, "merge": 2}}, "perceiver takes merge: 1"),
        ({"connector": {"kind": "pixel_shuffle"}, "vision": {**SMALL, "merge": 1}}, "merges blocks of patches"),
        ({"connector": {"kind": "c_abstractor"}, "vision": {**SMALL, "drop": 0.5}}, "wants whole grids"),
        ({"connector": {"kind": "cross_attention", "heads": 5}}, "5 heads do not divide a width of 32"),
        ({"connector": {"kind": "adaptive_pool", "tokens": 8}}, "no square grid; 4 would be one"),
        ({"connector": {"kind": "qformer", "heads": 5}}, "5 heads do not divide"),
        ({"audio_connector": {"kind": "perceiver"}}, "perceiver"),
        ({"objective": "qformer"}, r"needs connector: \{kind: qformer, text: \{\}\}"),
        (
            {"views": {"image": {"merge": 1}}},
            r"model\.views\.image\.merge: 1, but the model takes 2; model\.vision\.merge",
        ),
        ({"views": {"video": {"temporal": 2}}}, r"model\.views\.video\.temporal: 2, but the model takes 1"),
        (
            {"connector": {"kind": "qformer", "hidden": 24, "text": {"vocabulary": 3}}},
            r"text\.vocabulary: 3, and the tokenizer has",
        ),
    ],
)
def test_what_does_not_fit_is_told_at_the_start(model: dict[str, Any], message: str) -> None:
    def begin() -> None:
        spec = NativeSpec(**{**MODEL, **model})
        family_of(spec, words())
        build(spec, words(), seed=0)

    with pytest.raises((SpecError, ValidationError), match=message):
        begin()


def command(output: Path, data: Path, model: dict[str, Any], **more: Any) -> list[str]:
    told = {
        "data": {"dataset": str(data), "max_length": 120, "epochs": None},
        "output": str(output),
        "model": {**MODEL, **model},
        "tokenizer": {"vocab_size": 400},
        "steps": 6,
        "global_batch": 2,
        "optim": {"lr": 3.0e-3, "warmup_steps": 0},
        "checkpoint": {"every": 2},
        **more,
    }
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(told))
    return ["--config", str(path)]


def test_what_samples_do_not_say_is_told_at_the_start(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A head, or languages, that only a field of samples teaches, where the stream does not carry it."""
    filmed = {"video": {"kind": "frames"}, "heads": {"quality": {"hidden": 8}}}
    heard = {"audio": {**SMALL, "languages": ["de"]}, "heads": {"events": {"classes": ["dog"]}}}
    for model, carry, says in (
        (filmed, [], "model.heads.quality: it learns from the samples' field quality, which does not come with them"),
        (heard, ["language"], "model.heads.events: it learns from the samples' field events or event_labels, which"),
        (heard, ["events"], "model.audio.languages: it learns from the samples' field language, which does not come"),
        (heard, ["event_labels", "language"], ""),
    ):
        told = [*command(tmp_path / "run", folder, model), "--set", f"data.carry={json.dumps(carry)}"]
        assert sft.main([*told, "--dry-run"]) == (2 if says else 0)
        assert says in capsys.readouterr().err
    for model, match in ((filmed, "heads.quality.*"), (heard, "heads.events.*")):
        assert sft.main([*command(tmp_path / "run", folder, model), "--dry-run"]) == 2
        assert f"or hold it: parameters: [{{match: '{match}', train: false}}]" in capsys.readouterr().err
        held = command(tmp_path / "run", folder, model, parameters=[{"match": match, "train": False}])
        assert sft.main([*held, "--set", "data.carry=[language]", "--dry-run"]) == 0


def test_a_picture_beyond_the_table_of_positions_is_left_out() -> None:
    """By the plan, before a step: the run that meets one late goes on."""
    vision = {**SMALL, "positions": "factorised", "max_grid": 8, "merge": 1}
    square, long = Media(kind="image", height=96, width=96), Media(kind="image", height=20, width=600)
    view = family_of(NativeSpec(**{**MODEL, "vision": vision}), words()).media["image"].view
    assert view.plan(square).grid == (1, 6, 6)
    dropping = NativeSpec(**{**MODEL, "vision": {**vision, "drop": 0.5}, "views": {}})
    draws = family_of(dropping, words()).media["image"].view
    for plan in (view.plan, functools.partial(draws.plan, rng=np.random.default_rng(0))):
        with pytest.raises(DataError, match=r"\d+ x \d+ patches; the model has positions for 8 \(max_grid\)") as error:
            plan(long)
        assert error.value.reason == "aspect_extreme"


CLUSTERS = {"connector": {"kind": "clusters", "tokens": 4}}


@pytest.fixture(scope="module")
def compressed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose connector compresses, tower and language model frozen."""
    output = tmp_path_factory.mktemp("clusters") / "run"
    assert sft.main(command(output, folder, CLUSTERS, parameters=[FROZEN])) == 0
    return output


def test_reconstruction_is_logged_and_learned_and_frozen_parts_stay(compressed: Path) -> None:
    lines = trace(compressed)
    assert all(line["aux/reconstruction"] > 0 for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    saved = load_file(checkpoint.found(compressed)[-1] / "model.safetensors")
    before = load_file(checkpoint.found(compressed)[0] / "model.safetensors")
    moved = {name for name in saved if not torch.equal(saved[name], before[name])}
    assert moved
    assert all("vision_connector" in name or name.startswith("lm_head") for name in moved)
    assert any("centres" in name for name in moved)


def test_from_an_older_checkpoint_it_is_the_same(compressed: Path, folder: Path, tmp_path: Path) -> None:
    told = command(tmp_path / "run", folder, CLUSTERS, parameters=[FROZEN])
    older = checkpoint.found(compressed)[0]
    assert sft.main([*told, "--resume", str(older)]) == 0
    assert trace(tmp_path / "run") == trace(compressed)[checkpoint.step_of(older) :]
    assert same_weights(tmp_path / "run", compressed)


@pytest.mark.soak
def test_killed_and_run_again_it_is_the_same(compressed: Path, folder: Path, tmp_path: Path) -> None:
    told = command(tmp_path / "run", folder, CLUSTERS, parameters=[FROZEN])
    assert killed(told, tmp_path / "run", step=3, seconds=0.0) > 3
    assert sft.main(told) == 0
    assert trace(tmp_path / "run") == trace(compressed)
    assert same_weights(tmp_path / "run", compressed)


def test_its_weight_is_the_configs(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A greater weight loses less in the end; a name that is not there is told."""
    ends = []
    for weight in (0.0, 100.0):
        output = tmp_path / f"run-{weight:g}"
        more = {"steps": 4, "auxiliary": {"reconstruction": weight}, "parameters": [FROZEN]}
        assert sft.main(command(output, folder, CLUSTERS, **more)) == 0
        assert f"reconstruction: its mean over each picture, times {weight:g}" in capsys.readouterr().out
        ends.append([line["aux/reconstruction"] for line in trace(output)])
    assert ends[0][0] == ends[1][0]
    assert ends[1][-1] < ends[0][-1]
    wrong = command(tmp_path / "wrong", folder, CLUSTERS, auxiliary={"reconstruct": 1.0})
    assert sft.main(wrong) == 2
    assert "auxiliary.reconstruct: the model has no such loss; did you mean 'reconstruction'" in capsys.readouterr().err


DEALT = {"steps": 2, "global_batch": 3, "auxiliary": {"reconstruction": 5.0}}


def same_steps(run: Path, other: Path) -> None:
    for mine, theirs in zip(trace(run), trace(other), strict=True):
        for name in ("loss", "aux/reconstruction", "grad_norm"):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4), name


def test_packs_that_share_a_pass_are_the_same_step(folder: Path, tmp_path: Path) -> None:
    assert sft.main(command(tmp_path / "apart", folder, CLUSTERS, **DEALT)) == 0
    assert sft.main(command(tmp_path / "together", folder, CLUSTERS, **DEALT, packs_per_forward=3)) == 0
    same_steps(tmp_path / "apart", tmp_path / "together")


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_ranks_of_which_one_has_fewer_packs_take_the_same_step(mode: str, folder: Path, tmp_path: Path) -> None:
    """Dummies, which keep them in step, count neither above nor below."""
    assert sft.main(command(tmp_path / "one", folder, CLUSTERS, **DEALT)) == 0
    ranks.run(2, command(tmp_path / "two", folder, CLUSTERS, **DEALT, distributed={"mode": mode}), tmp_path / "said")
    same_steps(tmp_path / "one", tmp_path / "two")


QFORMER = {"kind": "qformer", "tokens": 4, "hidden": 32, "layers": 2, "heads": 4, "inner": 48}
QFORMER["text"] = {"longest": 128, "projection": 16}
IDLE = [{"match": r"(vision|language|head)\..*|connector\.vision_connector\.out\..*", "train": False}]


def test_a_qformer_learns_from_pairs_and_then_for_a_language_model(folder: Path, tmp_path: Path) -> None:
    """BLIP-2's two stages from one config: texts are learned; the second stage begins with the first's Q-Former,
    leaves what is for text alone as it is, and exports to a folder that loads."""
    stages = [
        {"name": "represent", "model": {"objective": "qformer"}, "parameters": IDLE, "steps": 8},
        {
            "name": "generate",
            "steps": 2,
            "parameters": [{"match": r"(vision|language|head)\..*|connector\..*\.text_.*", "train": False}],
        },
    ]
    told = command(tmp_path / "run", folder, {"connector": QFORMER}, stages=stages, global_batch=1)
    assert sft.main(told) == 0
    first, second = (tmp_path / "run" / name for name in ("01-represent", "02-generate"))
    lines = trace(first)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(line["aux/itc"] > 0 and line["aux/itm"] > 0 for line in lines)
    assert not any("aux/itc" in line and line["aux/itc"] for line in trace(second))
    ends = [load_file(checkpoint.found(run)[-1] / "model.safetensors") for run in (first, second)]
    begun = load_file(checkpoint.found(first)[0] / "model.safetensors")
    idle = [name for name in begun if "language_model" in name or "lm_head" in name or "vision_tower" in name]
    assert all(torch.equal(begun[name], end[name]) for name in idle for end in ends)
    text = [name for name in begun if ".text_" in name]
    assert text
    assert not any(torch.equal(begun[name], ends[0][name]) for name in text if "norm" not in name)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in text)
    assert not torch.equal(ends[0]["model.vision_connector.queries"], ends[1]["model.vision_connector.queries"])
    assert export.main([str(second), "--output", str(tmp_path / "out")]) == 0
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    assert torch.equal(again.state_dict()["model.vision_connector.queries"], ends[1]["model.vision_connector.queries"])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["objective"] == "language"


def test_what_the_qformers_objective_leaves_out_must_be_frozen(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"connector": QFORMER, "objective": "qformer"}
    assert sft.main(command(tmp_path / "run", folder, model)) == 2
    assert "model.objective: qformer has no part for " in capsys.readouterr().err
    more = {"parameters": IDLE, "packs_per_forward": 2}
    assert sft.main(command(tmp_path / "run", folder, model, **more)) == 2
    assert "compares the samples of a pack" in capsys.readouterr().err


def test_adapters_find_the_parts_of_a_connector() -> None:
    told = {"kind": "perceiver", "tokens": 2, "layers": 2, "heads": 2}
    model = build(NativeSpec(**{**MODEL, "connector": told}), words(), seed=0)

    def found(targets: Any) -> set[str]:
        entry = LoraSpec(kind="lora", component="connector", targets=targets)
        return {target.alias.removeprefix("connector.vision_connector.") for target in find(model, [entry])}

    layers = [f"layers.{number}" for number in range(2)]
    assert found("attention") == {f"{layer}.attention.{name}" for layer in layers for name in ("q", "k", "v", "out")}
    assert found("mlp") == {f"{layer}.mlp.{name}" for layer in layers for name in ("up", "down")}
    assert found("all-linear") == found("attention") | found("mlp") | {"out"}
