"""QLoRA: NF4 with double quantisation, against bitsandbytes' own layer; on the CPU where it runs, on a GPU too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmtrain import adapters
from tests.mmtrain.adapters.models import ids, llama, logits, put

bitsandbytes = pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes: pip install 'mmdata[qlora]'")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
QLORA = {"kind": "qlora", "component": "language", "targets": "attention", "rank": 4, "last": 2}


def on(device: str) -> Any:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return llama().to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_all_linear_layers_of_the_component_are_bitsandbytes_nf4(device: str) -> None:
    plain = on(device)
    model = put(on(device), QLORA)
    linear = [name for name, module in plain.model.named_modules() if isinstance(module, torch.nn.Linear)]
    for name in linear:
        layer = model.model.get_submodule(name)
        source = plain.model.get_submodule(name)
        packed, state = bitsandbytes.functional.quantize_4bit(
            source.weight.detach(), quant_type="nf4", compress_statistics=True
        )
        assert layer.weight.quant_state.nested
        assert torch.equal(layer.weight.data, packed)
        assert torch.equal(layer.dequantised(), bitsandbytes.functional.dequantize_4bit(packed, state))
        if not hasattr(layer, "lora"):
            x = torch.randn(3, source.in_features, device=device)
            expected = torch.nn.functional.linear(x, layer.dequantised(), source.bias)
            assert (layer(x) - expected).abs().max() < 1e-4
    assert len(linear) == 21
    assert type(model.lm_head) is torch.nn.Linear
    assert len(list(adapters.adapters(model))) == 8


@pytest.mark.parametrize("device", DEVICES)
def test_only_adapters_learn_and_come_back(device: str) -> None:
    model = put(on(device), QLORA)
    settings = adapters.defaults(model)
    assert sum(setting.train for setting in settings.values()) == 16
    tokens = ids().to(device)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora." in name)
    optim = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    for _ in range(8):
        loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optim.step()
        optim.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.5
    assert not any("q_proj.weight" in name for name in model.state_dict())  # quantised anew from what was loaded
    again = put(on(device), QLORA, move=0.0)
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again, input_ids=tokens), logits(model, input_ids=tokens))


def test_it_is_merged_into_what_it_learned_with() -> None:
    """No layer is in 4 bits any more, and all compute what they did; or into the weights in full, by a LoRA."""
    model = put(llama(), QLORA)
    state = adapters.adapter_state(model)
    expected = logits(model)
    adapters.merge(model)
    assert (logits(model) - expected).abs().max() < 1e-4
    assert all(type(module).__name__ != "NF4Linear" for module in model.modules())
    assert model.state_dict().keys() == llama().state_dict().keys()
    whole = put(llama(), {**QLORA, "kind": "lora"}, move=0.0)
    adapters.load_adapter_state(whole, state)
    expected = logits(whole)
    adapters.merge(whole)
    assert (logits(whole) - expected).abs().max() < 1e-4


def test_peft_loads_what_was_learned(tmp_path: Any) -> None:
    """Into the plain model; the difference is that of 4 bits alone."""
    import peft

    model = put(llama(), QLORA, move=0.1)
    assert adapters.export(model, tmp_path) == []
    whole = put(llama(), {**QLORA, "kind": "lora"}, move=0.1)
    theirs = peft.PeftModel.from_pretrained(llama(), tmp_path)
    assert (logits(theirs) - logits(whole)).abs().max() < 1e-5
