"""Whether a model's longest sample has a place: tables end, rotations do not, whatever lies around the decoder."""

from __future__ import annotations

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from mmdata.errors import SpecError
from mmtrain.models import build, check_positions
from mmtrain.models.spec import NativeSpec
from tests.mmtrain.tiny_models import ALL, make, words

FAR = 5000


@pytest.mark.parametrize("name", ALL)
def test_what_turns_goes_on(name: str) -> None:
    model = make(name).train()
    check_positions(model, FAR)
    check_positions(model, None)
    assert model.training


@pytest.mark.parametrize(
    "more",
    [
        {"connector": {"kind": "perceiver", "tokens": 4}, "fusion": {"kind": "gated", "every": 1}},
        {"connector": {"kind": "perceiver", "tokens": 4}, "fusion": {"kind": "bidirectional", "every": 1}},
        {"experts": {"kind": "routed", "count": 2, "top_k": 1}},
        {"fusion": {"kind": "late", "projection": 8}, "objective": "contrastive"},
    ],
)
def test_layers_that_are_told_more_are_told_it(more: dict[str, object]) -> None:
    small = {"hidden": 16, "layers": 1, "heads": 2}
    spec = NativeSpec.model_validate({"kind": "native", "audio": None, "vision": small, "language": small, **more})
    check_positions(build(spec, words(), seed=0), FAR)


@pytest.mark.parametrize(
    "model",
    [
        GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=40)),
        OPTForCausalLM(
            OPTConfig(
                vocab_size=50,
                hidden_size=16,
                ffn_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                word_embed_proj_dim=16,
                max_position_embeddings=40,
            )
        ),
    ],
)
def test_a_table_has_an_end(model: object) -> None:
    check_positions(model, 40)
    with pytest.raises(SpecError, match=r"data.max_length: 43, but .* has a table of 40 positions; set data.max_l"):
        check_positions(model, 43)
