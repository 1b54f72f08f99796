"""The native model with layers across frames: a packed row is its samples, features are as many as were planned, and
words come out one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmdata import rng
from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import DataError, SpecError
from mmdata.families._family import plan_media
from mmdata.types import Media
from mmtrain import certificate
from mmtrain.answers import inputs_of
from mmtrain.components import aliases
from mmtrain.flops import train_flops
from mmtrain.models import build, family_of, keep, rebuild
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import loss_sum
from tests.mmtrain.test_native import SMALL, VIEWS, samples, words
from tests.mmtrain.test_native import towers as towers  # a fixture: other people's towers
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

CONV = {"kind": "conv"}
KINDS: dict[str, dict[str, Any]] = {
    "divided": {"video": {"kind": "divided", "layers": 1, "reduce": CONV}},
    "token": {
        "vision": {**SMALL, "merge": 1},
        "video": {"kind": "divided", "layers": 1, "video_token": "beside"},
        "connector": {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8},
    },
    "merge": {
        "vision": {**SMALL, "merge": 1},
        "video": {"kind": "local", "layers": 1, "window": 1, "reduce": {"kind": "merge", "tokens": 11}},
    },
    "hierarchical": {
        "vision": {**SMALL, "merge": 1},
        "video": {"kind": "hierarchical", "clip": 2, "tokens": 2, "layers": 1},
    },
    "gated": {
        "video": {"kind": "axial", "layers": 1, "reduce": CONV},
        "connector": {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8},
        "vision": {**SMALL, "merge": 1},
        "fusion": {"kind": "gated", "every": 1},
    },
    "clip": {"vision": {"kind": "hf", "merge": 2}, "video": {"kind": "joint", "layers": 1, "reduce": CONV}},
}


def variant(name: str, towers: dict[str, str]) -> NativeSpec:
    told: dict[str, Any] = {"kind": "native", "vision": SMALL, "audio": SMALL, "language": SMALL, **KINDS[name]}
    if told["vision"].get("kind") == "hf":
        told["vision"] = {**told["vision"], "path": towers[name]}
        return NativeSpec(**told, views={"video": {"num_frames": 3}})
    return NativeSpec(**told, views=VIEWS)


@pytest.mark.parametrize("name", ["divided", "token", "hierarchical", "clip"])
def test_packed_is_separate(name: str, media: Path, towers: dict[str, str]) -> None:  # noqa: F811
    """Loss and gradients of a row are those of its samples alone; every weight of `model.video` has one."""
    spec = variant(name, towers)
    family = family_of(spec, words())
    model = build(spec, words(), seed=1)
    for parameter in model.parameters():  # of zeros nothing could be seen
        if not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1)
    found, collate = samples(media, family), PackedCollator()
    frames = [int(count) for each in found for count in each.media.get("frame_counts", [])]
    assert max(frames) >= 3
    total, weight = torch.zeros(()), 0
    for sample in found:  # feature counts are checked on the way: placeholders and features must agree
        inputs = {k: v for k, v in model_inputs(collate(sample)).items() if k not in certificate.BORDERS}
        labels = inputs.pop("labels")[0]
        total = total + F.cross_entropy(model(**inputs).logits[0, :-1], labels[1:], reduction="sum", ignore_index=-100)
        weight += int((labels[1:] != -100).sum())
    (total / weight).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    mine = {n for n, _ in model.named_parameters() if n.startswith("model.video.")}
    assert mine
    assert mine <= expected.keys()
    assert {aliases(model)[n].split(".")[1] for n in mine} == {"video"}
    model.zero_grad(set_to_none=True)
    certificate.adopt(model, "varlen")
    batch = collate(found)
    row, targets = loss_sum(model, batch)
    assert int(targets) == weight
    assert abs(float(row / targets) - float(total / weight)) < 1e-5
    (row / targets).backward()
    for name_, gradient in expected.items():
        assert (model.get_parameter(name_).grad - gradient).abs().max() < 2e-5, name_
    assert train_flops(model, batch) is None


@pytest.mark.parametrize("name", KINDS)
def test_features_are_as_many_as_planned(name: str, towers: dict[str, str]) -> None:
    spec = variant(name, towers)
    model, family = build(spec, words(), seed=0), family_of(spec, words())
    marks = model.model.fusing.marks
    for key, (height, width, frames) in enumerate([(90, 40, 1), (64, 64, 4), (30, 100, 9)]):
        facts = [
            Media(kind="image", height=height, width=width),
            Media(kind="video", height=height, width=width, frames=frames, fps=2.0, seconds=frames / 2),
        ]
        for fact in facts:
            try:
                (plan,) = plan_media(family, [fact], lambda at, key=key: rng.generator("count", key, at))
            except DataError:
                continue
            rule = family.media[plan.kind]
            values = {rule.key: torch.zeros(plan.shape)}
            values |= {name: torch.from_numpy(array) for name, array in rule.companions(plan).items()}
            values[rule.key] = values[rule.key] if values[rule.key].ndim != 3 else values[rule.key][None]
            with torch.no_grad():
                patches = model.model.patches(values)
                made = model.model.vision_connector(patches)
            assert plan.tokens == (len(patches.lengths) if marks else len(made)), (fact, plan)


@pytest.mark.parametrize("name", ["divided", "clip"])
def test_words_come_out_and_a_folder_keeps_it(
    name: str,
    media: Path,  # noqa: F811
    towers: dict[str, str],
    tmp_path: Path,
) -> None:
    """Greedy words with a cache are those of the whole forward pass; a model rebuilt from its folder is the same."""
    spec = variant(name, towers)
    model = build(spec, words(), seed=1).eval()
    found = samples(media, family_of(spec, words()))
    film = next(each for each in found if any(slot.kind == "video" for slot in each.slots))
    inputs = inputs_of(film, torch.device("cpu"))
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=4, use_cache=True)
    with torch.no_grad():
        again = model(**{**inputs, "input_ids": ids[:, :-1], "attention_mask": torch.ones_like(ids[:, :-1])}).logits
    start = inputs["input_ids"].shape[1]
    assert ids[0, start:].tolist() == again[0, start - 1 :].argmax(-1).tolist()
    keep(tmp_path, spec, model)
    other = rebuild(tmp_path)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, other.eval()(**inputs).logits)


def test_time_is_seen(media: Path) -> None:  # noqa: F811
    """The same frames at other times, or in another order, are something else."""
    spec = NativeSpec(kind="native", vision=SMALL, language=SMALL, views=VIEWS, video={"kind": "divided"})
    model = build(spec, words(), seed=1).eval()
    found = samples(media, family_of(spec, words()))
    film = next(each for each in found if any(slot.kind == "video" for slot in each.slots))
    batch = model_inputs(PackedCollator()(film))
    with torch.no_grad():
        before = model.model.patches(batch).rows
        later = model.model.patches({**batch, "frame_ms": batch["frame_ms"] * 2}).rows
    assert not torch.allclose(before, later, atol=1e-4)
    del batch["frame_ms"]
    with pytest.raises(ValueError, match="neither frame_counts nor frame_ms"):
        model(**batch)


def test_what_does_not_fit_is_refused() -> None:
    dropping = NativeSpec(kind="native", vision={**SMALL, "merge": 1, "drop": 0.4}, video={"kind": "divided"})
    with pytest.raises(SpecError, match=r"model\.vision\.drop"):
        build(dropping, words(), seed=0)
    with pytest.raises(ValueError, match="vision is null"):
        NativeSpec(kind="native", vision=None, video={"kind": "divided"})
    with pytest.raises(ValueError, match="kind must be one of"):
        NativeSpec(kind="native", video={"kind": "convolution"})
