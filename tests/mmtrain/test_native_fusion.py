"""Fusion in a whole model, through the command: markers as planned, packed as alone, shut gates and frozen parts to
the bit, runs that go on and models that load again, words one by one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn import functional as F

from mmdata import StreamingDataset
from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import SpecError
from mmdata.types import Packed
from mmtrain import certificate, checkpoint, export, sft
from mmtrain.adapters.spec import LoraSpec
from mmtrain.adapters.targets import find
from mmtrain.blocks import recompute
from mmtrain.components import aliases
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import loss_sum
from tests.families.processors import PHOTOS, image, packed
from tests.mmtrain.test_fusion import KINDS
from tests.mmtrain.test_native import samples, words
from tests.mmtrain.test_native_connectors import command
from tests.mmtrain.test_sft import same_weights, trace
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

SMALL = {"hidden": 32, "layers": 2, "heads": 4}
PERCEIVER = {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8}
GATED = {"kind": "gated", "every": 1}
WHOLE = [{**spec, **({} if spec["kind"] == "progressive" else {"every": 1})} for spec in KINDS]
WHOLE[4]["layers"] = [0, 1]
SOME = [
    pytest.param(each, marks=[pytest.mark.soak] if {"gate", "rank", "sparse"} & each.keys() else [], id=id_)
    for each in WHOLE
    if (id_ := "-".join(str(value) for value in each.values()))
]
"""Variants of one layer are tried whole in the long run; each by itself in `test_fusion`."""


def told(fusion: dict[str, Any], **more: Any) -> NativeSpec:
    views = {"image": {"max_pixels": 96 * 96}, "video": {"max_pixels": 64 * 64}}
    mine = {"kind": "native", "vision": SMALL, "audio": SMALL, "language": SMALL, "views": views}
    return NativeSpec(**{**mine, "connector": PERCEIVER, "fusion": fusion, **more})


def opened(model: Any) -> Any:
    """Gates, and what else is zero at first, with values: of zeros nothing could be seen."""
    for parameter in model.parameters():
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("fusion", SOME)
def test_packed_is_separate(fusion: dict[str, Any], media: Path) -> None:  # noqa: F811
    """Loss and gradients of a row of pictures, clips, sounds and words are those of its samples alone; the certificate
    says so too. Markers are as many as the plan promised: one for each picture and frame."""
    spec = told(fusion)
    family = family_of(spec, words())
    model = opened(build(spec, words(), seed=1))
    found, collate = samples(media, family), PackedCollator()
    slots = [slot for sample in found for slot in sample.slots if slot.kind != "audio"]
    assert {slot.kind for slot in slots} == {"image", "video"}
    assert all(slot.tokens == (1 if slot.kind == "image" else slot.length) for slot in slots)
    total, weight = torch.zeros(()), 0
    for sample in found:
        inputs = {k: v for k, v in model_inputs(collate(sample)).items() if k not in certificate.BORDERS}
        labels = inputs.pop("labels")[0]
        total = total + F.cross_entropy(model(**inputs).logits[0, :-1], labels[1:], reduction="sum", ignore_index=-100)
        weight += int((labels[1:] != -100).sum())
    (total / weight).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    certificate.adopt(model, "varlen")
    row, targets = loss_sum(model, collate(found))
    assert abs(float(row / targets) - float(total / weight)) < 1e-5
    (row / targets).backward()
    assert {aliases(model)[name].split(".")[0] for name in expected} == {
        *("vision", "audio", "connector", "fusion", "language", "head")
    }
    for name, gradient in expected.items():
        assert (model.get_parameter(name).grad - gradient).abs().max() < 1e-5, name
    said = certificate.certify(model, certificate.chosen(found, ("image", "video", "audio"), count=3), collate)
    assert said.strategy == "varlen", said
    assert said.shown == ("audio", "image", "video")


@pytest.mark.parametrize("fusion", SOME)
def test_what_is_saved_loads_and_words_come_one_by_one(
    fusion: dict[str, Any],
    media: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Generation with what was kept of the media is the forward pass without."""
    spec = told(fusion)
    model = opened(build(spec, words(), seed=1)).eval()
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    found = samples(media, family_of(spec, words()))
    looked = [sample for sample in found if "pixel_values" in sample.media]
    for sample in (looked[-1], next(s for s in found if not s.media)):
        inputs = model_inputs(PackedCollator()(sample))
        given = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image", "input", "audio", "patch"))}
        ids = given.pop("input_ids")
        expected = ids
        for _ in range(4):
            with torch.no_grad():
                chosen = model(input_ids=expected, use_cache=False, **given).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, chosen], 1)
        kept = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        found_ids = again.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given, **kept)
        assert torch.equal(found_ids, expected)
        with torch.no_grad():
            first = model(input_ids=ids, use_cache=True, **given)
            second = model(input_ids=expected[:, -4:], past_key_values=first.past_key_values, seen=first.seen)
            whole = model(input_ids=expected, use_cache=False, **given)
        assert (second.logits - whole.logits[:, -4:]).abs().max() < 1e-5
        assert (first.seen is None) == ("pixel_values" not in sample.media)


@torch.no_grad()
def test_shut_gates_leave_the_language_model_as_it_was(media: Path) -> None:  # noqa: F811
    """To the bit, with pictures: what comes out is what a Llama of the same weights says to the same tokens."""
    spec = told(GATED, audio=None)
    family, model = family_of(spec, words()), build(spec, words(), seed=1).eval()
    alone = hf.LlamaForCausalLM(model.config.text_config).eval()
    alone.model.load_state_dict(model.model.language_model.state_dict())
    alone.lm_head.load_state_dict(model.lm_head.state_dict())
    stream = StreamingDataset(media, family=family, template="chatml", yields="encoded", max_length=2000)
    found = [s for s in stream if isinstance(s, Packed) and "pixel_values" in s.media]
    assert found
    for sample in found:
        inputs = model_inputs(PackedCollator()(sample))
        certificate.adopt(model, "varlen")
        certificate.adopt(alone, "varlen")
        del inputs["labels"]
        text = {name: value for name, value in inputs.items() if name not in sample.media and "grid" not in name}
        assert torch.equal(model(**inputs).logits, alone(**text).logits)
    opened(model)
    assert not torch.equal(model(**inputs).logits, alone(**text).logits)


@pytest.mark.parametrize("fusion", [{"kind": "bidirectional", "every": 1}, {"kind": "progressive", "layers": [0, 1]}])
def test_layers_that_run_again_and_copies_of_a_model_see_the_same(fusion: dict[str, Any]) -> None:
    spec = told(fusion, audio=None)
    model = opened(build(spec, words(), seed=1)).train()
    certificate.adopt(model, "varlen")
    said = [["<s>see ", image(PHOTOS[0]), " a temple</s>"], ["<s>only words</s>"]]
    batch = PackedCollator()([packed(family_of(spec, words()), said, trained=3)])

    def run(model: Any) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        loss_sum(model, batch)[0].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    expected, other = run(model), copy.deepcopy(model)
    assert recompute(model, "full") == 6
    again = run(model)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], gradient) for name, gradient in expected.items())
    for parameter in model.model.fusion.parameters():
        parameter.data.zero_()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in run(other).items())


def test_towers_of_one_size_show_images_and_clips(media: Path, tmp_path: Path) -> None:  # noqa: F811
    """Their frames come after their images, whatever the order of the markers; padded rows are as packed ones."""
    from mmdata.collate import PaddedCollator
    from tests.mmtrain.tiny_models import vision

    hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision(image_size=56))).save_pretrained(tmp_path)
    clip = {"kind": "hf", "path": str(tmp_path), "layer": -2}
    spec = told({**GATED, "every": 2}, vision=clip, audio=None, views={"video": {"num_frames": 3}})
    family, model = family_of(spec, words()), opened(build(spec, words(), seed=1)).eval()
    stream = StreamingDataset(media, family=family, template="chatml", yields="encoded", max_length=2000)
    found = [sample for sample in stream if isinstance(sample, Packed)]
    assert {"pixel_values", "pixel_values_videos"} <= {key for sample in found for key in sample.media}
    found.sort(key=lambda sample: "pixel_values" in sample.media)
    certificate.adopt(model, "varlen")
    row, weight = loss_sum(model, PackedCollator()(found))
    padded, _ = loss_sum(model, PaddedCollator(pad_id=0)(found), strategy="single")
    each = [loss_sum(model, PackedCollator()(sample))[0] for sample in found]
    assert abs(float(sum(each) / weight) - float(row / weight)) < 1e-5
    assert abs(float(padded / weight) - float(row / weight)) < 1e-5


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"fusion": {"kind": "gatted"}}, "'gated'"),
        ({"fusion": {"kind": "gated", "evry": 2}}, "evry"),
        ({"fusion": {"kind": "gated"}, "vision": None}, "gated is for pictures, and vision is null"),
        (
            {"fusion": {"kind": "progressive", "layers": [0, 2]}},
            r"model\.fusion\.layers: 2, and the language model has 2",
        ),
        ({"fusion": {"kind": "gated", "heads": 5}}, r"model\.fusion\.heads: 5 do not divide the width of 32"),
    ],
)
def test_what_does_not_fit_is_told_at_the_start(model: dict[str, Any], message: str) -> None:
    def begin() -> None:
        spec = NativeSpec(**{**told(GATED).model_dump(), **model})
        family_of(spec, words())
        build(spec, words(), seed=0)

    with pytest.raises((SpecError, ValidationError), match=message):
        begin()


def test_lora_finds_the_layers_of_a_fusion() -> None:
    model = build(told({"kind": "gated", "every": 2}), words(), seed=0)

    def found(targets: Any) -> set[str]:
        entry = LoraSpec(kind="lora", component="fusion", targets=targets)
        return {target.alias.removeprefix("fusion.layers.0.") for target in find(model, [entry])}

    assert found("attention") == {f"attention.{name}" for name in ("q", "k", "v", "out")}
    assert found("mlp") == {f"mlp.{name}" for name in ("up", "gate_proj", "down")}


MODEL = {"connector": PERCEIVER, "fusion": GATED, "language": SMALL}
FROZEN = {"match": r"(vision|language|head)\..*", "train": False}


@pytest.fixture(scope="module")
def flamingo(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trains resampler and gated layers, tower and language model frozen, as Flamingo did."""
    output = tmp_path_factory.mktemp("flamingo") / "run"
    optim = {"lr": 3.0e-2, "warmup_steps": 0}
    assert sft.main(command(output, folder, MODEL, parameters=[FROZEN], optim=optim)) == 0
    return output


def test_it_learns_and_what_is_frozen_stays(flamingo: Path) -> None:
    lines = trace(flamingo)
    assert lines[-1]["loss"] < lines[0]["loss"]
    before, after = (load_file(checkpoint.found(flamingo)[at] / "model.safetensors") for at in (0, -1))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in moved} == {"fusion", "vision_connector"}
    assert any("alpha" in name for name in moved)


def test_from_an_older_checkpoint_it_is_the_same(flamingo: Path, folder: Path, tmp_path: Path) -> None:
    optim = {"lr": 3.0e-2, "warmup_steps": 0}
    told = command(tmp_path / "run", folder, MODEL, parameters=[FROZEN], optim=optim)
    older = checkpoint.found(flamingo)[0]
    assert sft.main([*told, "--resume", str(older)]) == 0
    assert trace(tmp_path / "run") == trace(flamingo)[checkpoint.step_of(older) :]
    assert same_weights(tmp_path / "run", flamingo)


def test_it_exports_to_a_folder_that_loads(flamingo: Path, tmp_path: Path) -> None:
    assert export.main([str(flamingo), "--output", str(tmp_path / "out")]) == 0
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    saved = load_file(checkpoint.found(flamingo)[-1] / "model.safetensors")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in saved.items())
    assert again.config.fusion["kind"] == "gated"
