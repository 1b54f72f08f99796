"""The dual encoder: its head is CLIP's and SigLIP's; pairs are learned through the command."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mmdata.collate import PackedCollator
from mmdata.errors import RunError
from mmtrain import certificate, checkpoint, export, sft
from mmtrain.models import build, family_of
from mmtrain.models.fusion import read
from mmtrain.models.fusion.late import LateHead, each_loss
from mmtrain.models.layers import Borders, Context
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses, target_weights
from tests.dataset_fixture import write_dataset
from tests.mmtrain.test_native_connectors import MODEL, SMALL, command, samples
from tests.mmtrain.test_sft import same_weights, trace
from tests.mmtrain.tiny_models import words

HIDDEN, PAIRS = 16, 5
TOWER = {"hidden_size": HIDDEN, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURE = {**TOWER, "image_size": 8, "patch_size": 4}
WORDS = {**TOWER, "vocab_size": 20, "max_position_embeddings": 8}
PERCEIVER = {"kind": "perceiver", "tokens": 3, "layers": 1, "heads": 2, "head_width": 8}


def pixels() -> torch.Tensor:
    return torch.randn(PAIRS, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def ids() -> torch.Tensor:
    return torch.randint(3, 19, (PAIRS, 6), generator=torch.Generator().manual_seed(1))


def one_each(rows: torch.Tensor) -> Context:
    return Context(rows=rows, borders=Borders.of([1] * len(rows), rows.device))


@torch.no_grad()
def test_likeness_and_loss_are_clips() -> None:
    config = hf.CLIPConfig(vision_config=PICTURE, text_config={**WORDS, "eos_token_id": 19}, projection_dim=8)
    theirs = hf.CLIPModel(config).eval()
    nn.init.normal_(theirs.logit_scale)
    head = LateHead(read({"kind": "late", "projection": 8}), HIDDEN)
    head.of_picture.weight.copy_(theirs.visual_projection.weight)
    head.of_text.weight.copy_(theirs.text_projection.weight)
    head.scale.fill_(theirs.logit_scale)
    expected = theirs(input_ids=ids(), pixel_values=pixels(), return_loss=True)
    seen = theirs.vision_model(pixel_values=pixels()).pooler_output
    said = theirs.text_model(input_ids=ids()).pooler_output
    logits = head(one_each(seen), said)
    assert (logits - expected.logits_per_image).abs().max() < 1e-5
    assert abs(float(each_loss(logits, "softmax").mean() - expected.loss)) < 1e-5


def test_clips_scale_is_held_and_comes_back() -> None:
    """Beyond 100 logits grow no more, and a loss that wants them smaller still moves the scale."""
    rows = torch.randn(PAIRS, HIDDEN, generator=torch.Generator().manual_seed(2))
    made = {}
    for scale in (100.0, 5000.0):
        head = LateHead(read({"kind": "late", "projection": 8}), HIDDEN)
        for part in (head.of_picture, head.of_text):
            nn.init.eye_(part.weight)
        head.scale.data.fill_(math.log(scale))
        made[scale] = head(one_each(rows), rows.flip(0))
        made[scale].sum().backward()
        assert head.scale.grad is not None
        assert float(head.scale.grad) == pytest.approx(float(made[scale].detach().sum()), rel=1e-4)
    torch.testing.assert_close(made[5000.0], made[100.0], rtol=1e-5, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_logits_have_all_their_digits_under_autocast(loss: str) -> None:
    head = LateHead(read({"kind": "late", "projection": 8, "loss": loss}), HIDDEN)
    head.scale.fill_(math.log(100.0))
    rows = torch.randn(PAIRS, HIDDEN, generator=torch.Generator().manual_seed(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = head(one_each(rows), rows.flip(0))
        seen, said = (
            F.normalize(part(x).float(), dim=-1) for part, x in ((head.of_picture, rows), (head.of_text, rows.flip(0)))
        )
    assert found.dtype == torch.float32
    bias = float(head.bias) if loss == "sigmoid" else 0.0
    torch.testing.assert_close(found, 100 * seen @ said.T + bias, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_likeness_and_loss_are_siglips() -> None:
    text = {**WORDS, "projection_size": HIDDEN}
    theirs: Any = hf.SiglipModel(hf.SiglipConfig(vision_config=PICTURE, text_config=text)).eval()
    nn.init.normal_(theirs.logit_scale), nn.init.normal_(theirs.logit_bias)
    head = LateHead(read({"kind": "late", "projection": HIDDEN, "loss": "sigmoid"}), HIDDEN)
    for matrix in (head.of_picture.weight, head.of_text.weight):
        matrix.copy_(torch.eye(HIDDEN))
    head.scale.copy_(theirs.logit_scale), head.bias.copy_(theirs.logit_bias)
    expected = theirs(input_ids=ids(), pixel_values=pixels(), return_loss=True)
    seen = theirs.vision_model(pixel_values=pixels()).pooler_output
    logits = head(one_each(seen), theirs.text_model(input_ids=ids()).pooler_output)
    assert (logits - expected.logits_per_image).abs().max() < 1e-4
    assert abs(float(each_loss(logits, "sigmoid").mean() - expected.loss)) < 1e-4


@torch.no_grad()
def test_pictures_are_pooled_each_by_itself() -> None:
    torch.manual_seed(0)
    head = LateHead(read({"kind": "late", "pool": "attention", "heads": 2}), HIDDEN)
    rows, lengths = torch.randn(9, HIDDEN), (4, 2, 3)
    pictures = Context(rows=rows, borders=Borders.of(lengths, rows.device))
    theirs = nn.MultiheadAttention(HIDDEN, 2)
    inner = head.attention
    theirs.in_proj_weight.copy_(torch.cat([inner.q.weight, inner.k.weight, inner.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([inner.q.bias, inner.k.bias, inner.v.bias]))
    theirs.out_proj.load_state_dict(inner.out.state_dict())
    expected = torch.cat([theirs(head.query, each, each)[0] for each in rows.split(lengths)])
    assert (head._pooled(pictures) - expected).abs().max() < 1e-5
    mean = LateHead(read({"kind": "late"}), HIDDEN)._pooled(pictures)
    assert torch.allclose(mean, torch.stack([each.mean(0) for each in rows.split(lengths)]))


LATE = {"connector": PERCEIVER, "fusion": {"kind": "late", "projection": 8}, "objective": "contrastive"}
IDLE = [{"match": r"head\..*", "train": False}]


def test_a_pair_in_a_row_has_the_vectors_of_the_pair_alone(folder: Path) -> None:
    """The loss of a row is that of its pairs' vectors, made alone; it reaches both towers."""
    spec = NativeSpec(**{**MODEL, **LATE})
    model = build(spec, words(), seed=1)
    certificate.adopt(model, "varlen")
    found, collate = samples(folder, family_of(spec, words())), PackedCollator()
    seen, said = [], []
    with torch.no_grad():
        for sample in found:
            batch = collate(sample)
            inputs = {name: batch[name] for name in ("input_ids", "position_ids", *sample.media, "image_grid_thw")}
            output = model.model(**inputs)
            seen.append(output.pictures.rows)
            said.append(output.last_hidden_state[0, int((target_weights(batch, "token") != 0).nonzero()[-1])])
        pictures = Context(rows=torch.cat(seen), borders=Borders.of([3] * len(seen), seen[0].device))
        expected = each_loss(model.model.fusion(pictures, torch.stack(said)), "softmax")
    row = collate(found)
    weights = target_weights(row, "sample")
    summed, each = losses(model, row, weights)
    assert abs(float(summed.detach()) - float(expected.sum())) < 1e-4
    assert abs(float((each * weights).sum()) - float(expected.sum())) < 1e-4
    summed.backward()
    for part in (
        model.model.vision_tower,
        model.model.vision_connector,
        model.model.language_model,
        model.model.fusion,
    ):
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())
    assert model.lm_head.weight.grad is None
    whole = row["cu_seq_lens_q"][[0, -1]]
    twice = {**row, "cu_seq_lens_q": whole, "cu_seq_lens_k": whole, "max_length_q": int(whole[1])}
    twice["max_length_k"] = twice["max_length_q"]
    with pytest.raises(RunError, match=rf"contrastive: a sample has {len(found)} pictures"):
        losses(model, twice, weights)


def test_pairs_are_learned_and_what_does_not_fit_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same three packs again and again."""
    folder = write_dataset(tmp_path / "dataset", samples=12)
    told = {"parameters": IDLE, "global_batch": 1, "loss_norm": "sample", "steps": 9}
    assert sft.main(command(tmp_path / "run", folder, LATE, **told)) == 0
    lines = trace(tmp_path / "run")
    assert sum(line["loss"] for line in lines[-3:]) < sum(line["loss"] for line in lines[:3])
    older = checkpoint.found(tmp_path / "run")[0]
    assert sft.main([*command(tmp_path / "again", folder, LATE, **told), "--resume", str(older)]) == 0
    assert trace(tmp_path / "again") == lines[checkpoint.step_of(older) :]
    assert same_weights(tmp_path / "again", tmp_path / "run")
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    saved = load_file(checkpoint.found(tmp_path / "run")[-1] / "model.safetensors")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in saved.items())
    capsys.readouterr()
    assert sft.main(command(tmp_path / "wrong", folder, LATE)) == 2
    assert "model.objective: contrastive has no part for head" in capsys.readouterr().err
    for wrong in ({"fusion": LATE["fusion"]}, {"objective": "contrastive"}):
        with pytest.raises(ValidationError, match="go together"):
            NativeSpec(**{**MODEL, "language": SMALL, **wrong})
