"""The tower over time and frequency: against dense code, packed as alone, and through a model."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from mmdata.collate import PackedCollator
from mmtrain.models.audio import halved
from mmtrain.models.configs import TimeFrequencyConfig
from mmtrain.models.layers import Layer
from mmtrain.models.spec import TimeFrequencySpec
from mmtrain.models.towers.time_frequency import TimeFrequency
from mmtrain.objective import losses
from mmtrain.weighting import step_weights
from tests.families.processors import packed
from tests.mmtrain.test_hearing import model_of
from tests.mmtrain.tiny_models import sound

CONFIG = TimeFrequencyConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_mel_bins=20, bands=4)


def dense(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """A layer over batches [B, L, hidden], by torch's own attention."""
    batch, length, width = x.shape
    query, key, value = layer.attention.qkv(layer.attention_norm(x)).view(batch, length, 3, 2, -1).unbind(2)
    found = nn.functional.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (query, key, value)))
    x = x + layer.attention.out(found.transpose(1, 2).reshape(batch, length, width))
    made: torch.Tensor = x + layer.mlp(layer.mlp_norm(x))
    return made


def test_it_is_attention_along_both_axes_and_packed_as_alone() -> None:
    torch.manual_seed(0)
    tower = TimeFrequency(CONFIG).eval()
    mels, frames = torch.randn(3, 20, 40), torch.tensor([40, 7, 1])
    together = tower(mels, frames)
    assert together.shape == (int(halved(frames).sum()), 16)
    pieces = torch.split(together, halved(frames).tolist())
    for number, piece in enumerate(pieces):
        count = int(frames[number])
        alone = tower(mels[number : number + 1, :, :count], frames[number : number + 1])
        assert torch.allclose(piece, alone, atol=1e-5)
        x = tower._cells(mels[number], count)  # [moments, bands, hidden]
        for time, band in zip(tower.along_time, tower.along_bands, strict=True):
            assert isinstance(time, Layer)
            assert isinstance(band, Layer)
            x = dense(band, dense(time, x.transpose(0, 1)).transpose(0, 1))
        x = tower.norm(x)
        wanted = (tower.vote(x).softmax(1) * x).sum(1)
        assert torch.allclose(piece, wanted, atol=1e-5)
    changed = mels.clone()
    changed[0, :, 10:] += 1
    assert torch.equal(torch.split(tower(changed, frames), halved(frames).tolist())[1], pieces[1])
    assert len(tower.states(mels, frames)) == CONFIG.num_hidden_layers + 1


def test_a_model_hears_by_it() -> None:
    own = {"kind": "time_frequency", "hidden": 16, "layers": 1, "heads": 2, "mels": 20, "bands": 4}
    model, family = model_of({**own, "states": "weighted", "hz": 10})
    row = packed(family, [["a", sound(9_000), "word"]])
    batch = PackedCollator()([row])
    loss, _ = losses(model, batch, step_weights(batch, "token"))
    torch.autograd.backward(loss)
    tower = model.get_encoder(modality="audio")
    assert isinstance(tower, TimeFrequency)
    assert all(parameter.grad is not None for parameter in tower.parameters())
    with pytest.raises(ValidationError, match="do not divide"):
        TimeFrequencySpec(kind="time_frequency", hidden=16, mels=80, bands=7)
