"""Anchors: what lies between a tower and what it was, beside dense ones; who learns from it; through the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmtrain import anchor, certificate, checkpoint, sft
from mmtrain.anchor import AnchorSpec
from mmtrain.auxiliary import declared, recording
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import loss_sum
from tests.mmtrain.test_native_connectors import MODEL, SMALL, command, samples
from tests.mmtrain.test_sft import same_weights, trace
from tests.mmtrain.tiny_models import vision, words

BOTH = AnchorSpec(features={"kind": "kl", "temperature": 2.0}, attention={"layers": (0, -1)})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("clip")
    hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision(image_size=56))).save_pretrained(folder)
    return str(folder)


def held(tower: dict[str, Any], folder: Path, spec: AnchorSpec) -> tuple[Any, dict[str, Any]]:
    """A model that is anchored and then moved, and a row of three samples."""
    told = NativeSpec(**{**MODEL, "vision": tower, "views": {}})
    model = build(told, words(), seed=1)
    family = family_of(told, words())
    certificate.adopt(model, "varlen")
    anchor.hold(model, spec)
    with torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.model.vision_tower.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model, PackedCollator()(samples(folder, family))


def navit_attention(tower: Any, model: Any, batch: dict[str, Any]) -> list[list[torch.Tensor]]:
    """Softmax of scores of each layer and picture, [heads, L, L], by hand, with our rotary angles."""
    from mmdata.views.patches import patch_coordinates
    from mmdata.views.rotary import rope_2d, rotate

    found: list[list[torch.Tensor]] = [[] for _ in tower.layers]
    at = 0
    for grid in batch["image_grid_thw"].tolist():
        length = grid[1] * grid[2]
        x = tower.patch_embedding(batch["pixel_values"][at : at + length])
        cos, sin = rope_2d(torch.from_numpy(patch_coordinates(tuple(grid), model.config.merge)), tower.width)
        at += length
        for number, layer in enumerate(tower.layers):
            inner = layer.attention_norm(x)
            heads = layer.attention.heads
            q, k, v = layer.attention.qkv(inner).view(length, 3, heads, -1).permute(1, 2, 0, 3)
            shares = (rotate(q, cos, sin) @ rotate(k, cos, sin).mT * q.shape[-1] ** -0.5).softmax(-1)
            found[number].append(shares)
            x = x + layer.attention.out((shares @ v).transpose(0, 1).flatten(1))
            x = x + layer.mlp(layer.mlp_norm(x))
    return found


def clip_attention(tower: Any, batch: dict[str, Any]) -> list[list[torch.Tensor]]:
    """As transformers says itself."""
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    layers = tower(batch["pixel_values"], output_attentions=True).attentions
    tower.set_attn_implementation(before)
    return [list(layer) for layer in layers]


@pytest.mark.parametrize("name", ["navit", "clip"])
def test_it_is_the_dense_one_and_only_the_tower_learns(name: str, folder: Path, clip: str) -> None:
    tower = {**SMALL, "layers": 2} if name == "navit" else {"kind": "hf", "path": clip, "merge": 2}
    model, batch = held(tower, folder, BOTH)
    terms = declared(model, {"attention": 0.5})
    assert {n: (t.weight, t.per) for n, t in terms.items()} == {
        "distill": (1.0, "picture"),
        "attention": (0.5, "picture"),
    }
    body = model.model
    with recording() as said:
        loss_sum(model.eval(), batch)
    assert not said, "nothing is held where nothing is trained"
    model.train()
    with recording() as said:
        loss_sum(model, batch)
    teacher = body.anchor.teacher
    with torch.no_grad():
        if name == "navit":
            now, then = (navit_attention(each, model, batch) for each in (body.vision_tower, teacher))
        else:
            now, then = (clip_attention(each, batch) for each in (body.vision_tower, teacher))
        features = []
        for each in (body.vision_tower, teacher):
            own, body.vision_tower = body.vision_tower, each
            features.append(body.eval().patches(batch))
            body.vision_tower = own
    for at, value in enumerate(said["attention"][0]):
        wanted = []
        for layer in (0, 1):
            p, q = then[layer][at], now[layer][at]
            wanted.append((p * (p.log() - q.log())).sum(-1).mean())
        torch.testing.assert_close(value, torch.stack(wanted).mean(), rtol=1e-3, atol=1e-6)
    for value, mine, theirs in zip(
        said["distill"][0], *(each.rows.split(each.lengths) for each in features), strict=True
    ):
        p, q = (theirs / 2).softmax(-1), (mine / 2).softmax(-1)
        torch.testing.assert_close(value, 4 * (p * (p / q).log()).sum(-1).mean(), rtol=1e-3, atol=1e-6)
    (said["distill"][0].sum() + said["attention"][0].sum()).backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learns
    assert all(n.startswith("model.vision_tower.") for n in learns)
    assert all(p.grad is None for p in teacher.parameters())


def test_unmoved_there_is_nothing_between(folder: Path) -> None:
    told = NativeSpec(**MODEL)
    model = build(told, words(), seed=1).train()
    anchor.hold(model, AnchorSpec.model_validate({"features": {}, "attention": {}}))
    batch = PackedCollator()(samples(folder, family_of(told, words())))
    with recording() as said:
        loss_sum(model, batch)
    assert all(part.abs().max() < 1e-6 for parts in said.values() for part in parts)
    assert not any("teacher" in name or "anchor" in name for name in model.state_dict())
    other = anchor.hold(build(told, words(), seed=2), AnchorSpec.model_validate({"features": {}}))
    assert other is not None
    with pytest.raises(ValueError, match="another tower than this run's"):
        other.load_state_dict(model.model.anchor.state_dict())
    model.model.anchor.load_state_dict(model.model.anchor.state_dict())


ANCHORED: dict[str, Any] = {"features": {"weight": 30.0}, "attention": {"weight": 3.0}}
WATCH: dict[str, Any] = {"drift": {"every": 1, "samples": 2}}


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("anchored") / "run"
    assert sft.main(command(output, folder, {}, anchor=ANCHORED, watch=WATCH)) == 0
    return output


def test_a_tower_that_is_held_stays_nearer(run: Path, folder: Path, tmp_path: Path) -> None:
    assert sft.main(command(tmp_path / "free", folder, {}, watch=WATCH)) == 0
    mine, free = trace(run), trace(tmp_path / "free")
    assert mine[0]["aux/distill"] == pytest.approx(0, abs=1e-6)
    assert all(line["aux/distill"] > 0 and line["aux/attention"] > 0 for line in mine[1:])
    assert free[-1]["drift/vision"] < mine[-1]["drift/vision"] < 1
    assert mine[-1]["loss"] < mine[0]["loss"]


def test_it_goes_on_from_the_same_tower_and_from_no_other(
    run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = checkpoint.found(run)[0]
    told = command(tmp_path / "again", folder, {}, anchor=ANCHORED, watch=WATCH)
    assert sft.main([*told, "--resume", str(older)]) == 0
    assert trace(tmp_path / "again") == trace(run)[checkpoint.step_of(older) :]
    assert same_weights(tmp_path / "again", run)
    other = command(tmp_path / "other", folder, {}, anchor=ANCHORED, watch=WATCH, seed=1)
    said = capsys.readouterr().out
    assert "anchor     a frozen copy of the vision tower, 0.1 MiB, runs beside it" in said
    assert "beside     attention: its mean over each picture, times 3" in said
    assert sft.main([*other, "--resume", str(older)]) == 2


def test_what_cannot_be_held_is_told(folder: Path, clip: str) -> None:
    def refused(spec: AnchorSpec, **model: Any) -> str:
        with pytest.raises(SpecError) as raised:
            anchor.hold(build(NativeSpec(**{**MODEL, **model}), words(), seed=0), spec)
        return str(raised.value)

    assert "layers: 3, and 2 layers" in refused(
        AnchorSpec.model_validate({"attention": {"layers": [3]}}), vision={**SMALL, "layers": 2}
    )
    assert "mixup moves features" in refused(BOTH, vision={**SMALL, "layers": 2, "mixup": 0.2})
    assert "nothing that could move" in refused(BOTH, vision={"kind": "fuyu"}, views={})
    with pytest.raises(SpecError, match="only models of kind: native"):
        anchor.hold(
            hf.LlamaForCausalLM(
                hf.LlamaConfig(
                    vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
                )
            ),
            BOTH,
        )
    with pytest.raises(ValueError, match="nothing is anchored"):
        AnchorSpec()


def test_cosine_of_features(folder: Path) -> None:
    model, batch = held({**SMALL, "layers": 1}, folder, AnchorSpec.model_validate({"features": {}}))
    model.train()
    with recording() as said:
        loss_sum(model, batch)
    body = model.model.eval()
    with torch.no_grad():
        mine = body.patches(batch)
        body.vision_tower = body.anchor.teacher
        theirs = body.patches(batch)
    apart = 1 - F.cosine_similarity(mine.rows, theirs.rows, dim=-1)
    expected = torch.stack([piece.mean() for piece in apart.split(mine.lengths)])
    torch.testing.assert_close(said["distill"][0], expected, rtol=1e-4, atol=1e-6)
    assert "attention" not in said
