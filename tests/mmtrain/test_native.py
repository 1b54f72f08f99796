"""The native model: packed rows are separate samples, features are as planned, words come out one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from mmdata import StreamingDataset, rng
from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import DataError, SpecError
from mmdata.families import Family
from mmdata.families._family import plan_media
from mmdata.types import Media, Packed
from mmtrain import certificate
from mmtrain.components import aliases
from mmtrain.models import build, family_of
from mmtrain.models.audio import sinusoids
from mmtrain.models.connectors import in_blocks
from mmtrain.models.spec import NativeSpec, Views
from mmtrain.objective import loss_sum
from tests.families.processors import tokenizer
from tests.mmtrain.tiny_models import MARKS, vision
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

SMALL = {"hidden": 32, "layers": 2, "heads": 4}
NO_DROPOUT = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
VIEWS = {"image": {"max_pixels": 96 * 96}, "video": {"max_pixels": 64 * 64}}


def words() -> Any:
    return tokenizer(**{f"mark_{at}": mark for at, mark in enumerate(MARKS)})


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of other people's towers and of a language model."""
    root = tmp_path_factory.mktemp("towers")
    clip = hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision(image_size=56)))
    clip.save_pretrained(root / "clip")
    hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}).save_pretrained(
        root / "clip"
    )
    hf.SiglipVisionModel(hf.SiglipVisionConfig(**vision(image_size=56))).save_pretrained(root / "siglip")
    dino = {**vision(image_size=56), "mlp_ratio": 2}
    hf.Dinov2Model(hf.Dinov2Config(**dino)).save_pretrained(root / "dinov2")
    sizes = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    whisper = hf.WhisperConfig(d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=60, pad_token_id=0, **sizes)
    whisper.bos_token_id, whisper.eos_token_id, whisper.decoder_start_token_id = 1, 2, 1
    hf.WhisperForConditionalGeneration(whisper).save_pretrained(root / "whisper")
    gpt2 = hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=len(words()) - 3, **NO_DROPOUT)
    hf.GPT2LMHeadModel(gpt2).save_pretrained(root / "gpt2")
    return {path.name: str(path) for path in root.iterdir()}


def variant(name: str, towers: dict[str, str]) -> NativeSpec:
    mine: dict[str, Any] = {"kind": "native", "vision": SMALL, "audio": SMALL, "language": SMALL, "views": VIEWS}
    match name:
        case "rope":
            return NativeSpec(**mine)
        case "factorised":
            factorised = {**SMALL, "positions": "factorised", "merge": 1, "patch": 14}
            return NativeSpec(**{**mine, "vision": factorised})
        case "dropping":
            views = {"image": {"side": 96, "low": 64, "high": 128}, "video": {"max_pixels": 64 * 64}}
            dropping = {**SMALL, "merge": 1, "drop": 0.4, "positions": "factorised"}
            return NativeSpec(**{**mine, "vision": dropping, "views": views})
    tower = {"kind": "hf", "path": towers[name], "merge": 2, "layer": -2 if name == "clip" else -1}
    audio = {"kind": "hf", "path": towers["whisper"]}
    language = {"kind": "hf", "path": towers["gpt2"]} if name == "siglip" else SMALL
    return NativeSpec(**{**mine, "vision": tower, "audio": audio, "language": language, "views": {}})


def samples(data: Path, family: Family) -> list[Packed]:
    stream = StreamingDataset(data, family=family, template="chatml", yields="encoded", max_length=2000)
    return [sample for sample in stream if isinstance(sample, Packed)]


@pytest.mark.parametrize(("name", "flag"), [("clip", True), ("siglip", True), ("dinov2", False)])
def test_a_towers_own_size_need_not_be_the_pictures(
    name: str,
    flag: bool,
    media: Path,  # noqa: F811
    towers: dict[str, str],
) -> None:
    """Pictures of 84 pixels through a tower of 56: as many tokens as planned, from positions that the tower's own code
    interpolates. What must hold whole blocks is the pictures' patches, not the tower's."""
    told = variant(name, towers).model_dump()
    spec = NativeSpec(**{**told, "views": {"image": {"size": 84, "crop": None, "mode": "squash"}}})
    family = family_of(spec, words())
    model = build(spec, words(), seed=1).eval()
    sample = next(each for each in samples(media, family) if "pixel_values" in each.media)
    batch = model_inputs(PackedCollator()(sample))
    pixels = batch["pixel_values"]
    assert pixels.shape[-1] == 84
    assert int((batch["input_ids"] == model.config.image_token_id).sum()) == 9 * len(pixels)
    tower = model.model.vision_tower
    with torch.no_grad():
        wide = tower(pixels, output_hidden_states=True, **({"interpolate_pos_encoding": True} if flag else {}))
        expected = in_blocks(wide.hidden_states[-2][:, -36:], 6, 2)
        if name != "clip":  # whose layer before the last is taken
            expected = in_blocks(wide.last_hidden_state[:, -36:], 6, 2)
        patches = model.model.patches({"pixel_values": pixels})
        assert torch.equal(patches.rows, expected)
        assert patches.grids == ((6, 6),) * len(pixels)
        assert torch.isfinite(model(**batch).loss)
    with pytest.raises(
        SpecError, match=r"2 does not divide the 5 x 5 patches of pictures of 70 pixels; set model\.views"
    ):
        family_of(spec.model_copy(update={"views": Views(image={"size": 70, "crop": None})}), words())


@pytest.mark.parametrize("name", ["rope", "factorised", "dropping", "clip", "siglip", "dinov2"])
def test_packed_is_separate(name: str, media: Path, towers: dict[str, str]) -> None:  # noqa: F811
    """Loss and gradients of a row are those of its samples alone, each through the model's own forward."""
    spec = variant(name, towers)
    family = family_of(spec, words())
    model = build(spec, words(), seed=1)
    for parameter in model.parameters():  # of zeros nothing could be seen
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    found = samples(media, family)
    assert {"pixel_values", "input_features"} <= {key for sample in found for key in sample.media}
    collate = PackedCollator()
    total, weight = torch.zeros(()), 0
    for sample in found:  # feature counts are checked on the way: placeholders and features must agree
        inputs = {k: v for k, v in model_inputs(collate(sample)).items() if k not in certificate.BORDERS}
        labels = inputs.pop("labels")[0]
        total = total + F.cross_entropy(model(**inputs).logits[0, :-1], labels[1:], reduction="sum", ignore_index=-100)
        weight += int((labels[1:] != -100).sum())
    (total / weight).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    parts = {aliases(model)[name].split(".")[0] for name in expected}
    assert parts >= {"vision", "audio", "connector", "language"}
    model.zero_grad(set_to_none=True)
    certificate.adopt(model, "varlen")
    row, targets = loss_sum(model, collate(found))
    assert int(targets) == weight
    assert abs(float(row / targets) - float(total / weight)) < 1e-5
    (row / targets).backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == expected.keys()
    for name_, gradient in expected.items():
        assert (model.get_parameter(name_).grad - gradient).abs().max() < 1e-5, name_


@pytest.mark.parametrize("name", ["rope", "dropping"])
def test_one_sample_never_moves_another(name: str, media: Path, towers: dict[str, str]) -> None:  # noqa: F811
    """Other pixels and other sounds of one sample leave all others as they are, to the bit."""
    spec = variant(name, towers)
    model = build(spec, words(), seed=1)
    certificate.adopt(model, "varlen")
    found = samples(media, family_of(spec, words()))
    batch = model_inputs(PackedCollator()(found))
    del batch["labels"]
    borders = batch["cu_seq_lens_q"].tolist()
    for key in ("pixel_values", "input_features"):
        owner = next(at for at, sample in enumerate(found) if key in sample.media)
        changed = {**batch, key: batch[key].clone()}
        changed[key][0] += 1.0
        with torch.no_grad():
            before, after = model(**batch).logits[0], model(**changed).logits[0]
        mine = torch.zeros(len(before), dtype=torch.bool)
        mine[borders[owner] : borders[owner + 1]] = True
        assert torch.equal(before[~mine], after[~mine]), key
        assert not torch.equal(before[mine], after[mine]), key


@pytest.fixture(scope="module")
def pairs(towers: dict[str, str]) -> list[tuple[Any, Family]]:
    specs = [variant(name, towers) for name in ("rope", "dropping", "clip")]
    return [(build(spec, words(), seed=0), family_of(spec, words())) for spec in specs]


side = st.integers(1, 700)


@given(side, side, st.integers(1, 9), st.integers(1, 40_000), st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_features_are_as_many_as_planned(
    pairs: list[tuple[Any, Family]], height: int, width: int, frames: int, samples: int, key: int
) -> None:
    for model, family in pairs:
        facts = [
            Media(kind="image", height=height, width=width),
            Media(kind="video", height=height, width=width, frames=frames, fps=2.0, seconds=frames / 2),
            Media(kind="audio", samples=samples, sample_rate=16_000),
        ]
        for fact in facts:
            try:
                (plan,) = plan_media(family, [fact], lambda at: rng.generator("count", key, at))
            except DataError:  # strips that no view takes
                continue
            rule = family.media[plan.kind]
            values = {rule.key: torch.zeros(plan.shape)}
            values |= {name: torch.from_numpy(array) for name, array in rule.companions(plan).items()}
            with torch.no_grad():
                if plan.kind == "audio":
                    made, _ = model.model._heard(values["input_features"][None], values["audio_frames"])
                else:
                    values[rule.key] = values[rule.key] if values[rule.key].ndim != 3 else values[rule.key][None]
                    made = model.model.vision_connector(model.model.patches(values))
            assert len(made) == plan.tokens, (fact, plan)


def test_generation_is_the_forward_pass_word_by_word(media: Path, towers: dict[str, str]) -> None:  # noqa: F811
    for name in ("rope", "siglip"):
        spec = variant(name, towers)
        model = build(spec, words(), seed=1).eval()
        sample = samples(media, family_of(spec, words()))[0]
        inputs = model_inputs(PackedCollator()(sample))
        given = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image", "input", "audio", "patch"))}
        ids = given.pop("input_ids")
        expected = ids
        for _ in range(4):
            with torch.no_grad():
                chosen = model(input_ids=expected, use_cache=False, **given).logits[:, -1:].argmax(-1)
            expected = torch.cat([expected, chosen], 1)
        told = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "eos_token_id": None}
        found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **given, **told)
        assert torch.equal(found, expected)


def test_weights_of_other_peoples_parts_are_taken(towers: dict[str, str]) -> None:
    model = build(variant("siglip", towers), words(), seed=3)
    theirs = hf.SiglipVisionModel.from_pretrained(towers["siglip"]).state_dict()
    mine = model.model.vision_tower.state_dict()
    assert theirs.keys() == mine.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    whisper = hf.WhisperForConditionalGeneration.from_pretrained(towers["whisper"]).model.encoder.state_dict()
    assert all(torch.equal(model.model.audio_tower.state_dict()[name], whisper[name]) for name in whisper)
    gpt2 = hf.GPT2LMHeadModel.from_pretrained(towers["gpt2"])
    table = model.get_input_embeddings().weight
    assert torch.equal(table[: gpt2.config.vocab_size], gpt2.transformer.wte.weight)
    assert model.lm_head.weight is table, "GPT-2's head is its embeddings"
    assert len(table) == len(words())


def test_sinusoids_are_whispers() -> None:
    from transformers.models.whisper.modeling_whisper import sinusoids as theirs

    assert torch.equal(sinusoids(50, 32), theirs(50, 32))


def test_whisper_hears_the_spectrogram_that_it_knows(towers: dict[str, str]) -> None:
    """A tower of 30 seconds gets 30 seconds, and tokens for those that hold sound."""
    family = family_of(variant("clip", towers), words())
    facts = Media(kind="audio", samples=8000, sample_rate=16_000)
    (plan,) = plan_media(family, [facts])
    wave = np.sin(np.arange(8000, dtype=np.float32) / 20)
    theirs = hf.WhisperFeatureExtractor(feature_size=80)(wave, sampling_rate=16_000, return_tensors="pt")
    mine = family.media["audio"].view.realize(wave, plan)
    assert (mine - theirs["input_features"][0]).abs().max() < 1e-5
    assert plan.tokens == 12  # half a second
