"""Adapters as files: ours come back to the bit, and peft computes the same from its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from mmdata.errors import SpecError
from mmtrain import adapters
from tests.mmtrain.adapters.models import gpt2, llama, logits, put, qwen3
from tests.mmtrain.test_components import make as make_family

KINDS: dict[str, list[dict[str, Any]]] = {
    "lora": [{"kind": "lora", "component": "language", "rank": 4, "alpha": 7}],
    "rslora": [{"kind": "rslora", "component": "language", "targets": "attention", "rank": 3}],
    "dora": [{"kind": "dora", "component": "language", "rank": 4, "init": "gaussian"}],
    "pissa": [{"kind": "lora", "component": "language", "targets": "mlp", "rank": 5, "init": "pissa"}],
    "pissa dora": [{"kind": "dora", "component": "language", "rank": 2, "init": "pissa"}],
    "orthogonal": [{"kind": "rslora", "component": "language", "rank": 4, "init": "orthogonal", "last": 2}],
    "ranges": [
        {"kind": "lora", "component": "language", "rank": 2, "layers": [0, 1], "targets": ["q_proj", "down_proj"]},
        {"kind": "rslora", "component": "language", "rank": 4, "last": 1, "targets": ["q_proj"]},
    ],
    "ia3": [{"kind": "ia3", "component": "language"}],
    "prefix": [{"kind": "prefix", "component": "language", "length": 5}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_peft_computes_the_same(kind: str, tmp_path: Path) -> None:
    """`PeftModel.from_pretrained` on the plain model; and so it is shown that ours are peft's LoRA, rsLoRA, DoRA, IA3
    and prefix tuning, from the same weights."""
    plain = logits(llama())
    model = put(llama(), *KINDS[kind])
    mine = logits(model)
    assert (mine - plain).abs().max() > 1e-2
    assert adapters.export(model, tmp_path) == []
    theirs = peft.PeftModel.from_pretrained(llama(), tmp_path)
    assert (logits(theirs) - mine).abs().max() < 1e-5
    again = llama()
    adapters.attach(again, tmp_path)
    assert torch.equal(logits(again), mine)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_layers_of_gpt2_are_turned_around(kind: str, tmp_path: Path) -> None:
    model = put(gpt2(), {"kind": kind, "component": "language"})
    assert adapters.export(model, tmp_path) == []
    theirs = peft.PeftModel.from_pretrained(gpt2(), tmp_path)
    assert (logits(theirs) - logits(model)).abs().max() < 2e-5


def test_prefixes_come_after_the_norm_of_keys(tmp_path: Path) -> None:
    model = put(qwen3(), *KINDS["prefix"])
    adapters.export(model, tmp_path)
    assert (logits(peft.PeftModel.from_pretrained(qwen3(), tmp_path)) - logits(model)).abs().max() < 1e-5


def test_several_kinds_are_several_folders(tmp_path: Path) -> None:
    """LoRA and DoRA can be active together; what peft cannot do is said, and ours have it all the same."""
    entries = [
        {"kind": "lora", "component": "language", "targets": "mlp", "rank": 2},
        {"kind": "dora", "component": "language", "targets": "attention", "rank": 3},
    ]
    model = put(llama(), *entries)
    assert adapters.export(model, tmp_path) == []
    theirs = peft.PeftModel.from_pretrained(llama(), tmp_path / "lora", adapter_name="lora")
    theirs.load_adapter(tmp_path / "dora", adapter_name="dora")
    theirs.base_model.set_adapter(["lora", "dora"])
    assert (logits(theirs) - logits(model)).abs().max() < 1e-5

    more = [{"kind": "ia3", "component": "language"}, {"kind": "bottleneck", "component": "language", "hidden": 4}]
    model = put(llama(), *entries, *more)
    unknown, together = adapters.export(model, tmp_path / "more")
    assert unknown == "bottleneck: peft has no such adapters"
    assert together == "dora and ia3 and lora: peft has each alone, and cannot hold them in a model together"
    again = llama()
    adapters.attach(again, tmp_path / "more")
    assert torch.equal(logits(again), logits(model))


def test_a_prefix_in_some_layers_is_not_pefts(tmp_path: Path) -> None:
    model = put(llama(), {"kind": "prefix", "component": "language", "last": 2})
    (refused,) = adapters.export(model, tmp_path)
    assert "all 3 layers; this one is in 2" in refused
    assert not (tmp_path / "adapter_config.json").exists()


def test_a_prefix_that_peft_could_not_load_is_refused(tmp_path: Path) -> None:
    prefix = {"kind": "prefix", "component": "language", "length": 3}
    model = put(make_family("llava").eval(), prefix)
    connector = [name for name, _ in model.named_parameters() if "multi_modal_projector" in name]
    (refused,) = adapters.export(model, tmp_path / "also", trained=connector)
    assert refused.endswith("is trained too, which peft cannot keep beside a prefix")
    (refused,) = adapters.export(put(make_family("qwen2_5_vl").eval(), prefix), tmp_path / "axes")
    assert "have several axes, which peft does not count" in refused
    assert not [*tmp_path.rglob("adapter_config.json")]


def test_what_was_trained_besides_goes_along(tmp_path: Path) -> None:
    """LoRA in the decoder and a connector trained as it is: what LLaVA's second stage does."""

    def fresh() -> Any:
        torch.manual_seed(5)
        return make_family("llava").eval()

    model = put(fresh(), {"kind": "lora", "component": "language", "rank": 2})
    connector = [name for name, _ in model.named_parameters() if "multi_modal_projector" in name]
    with torch.no_grad():
        for name in connector:
            model.get_parameter(name).add_(0.1)
    assert adapters.export(model, tmp_path, trained=connector) == []
    pixels = torch.randn(1, 3, 28, 28)
    image = model.config.image_token_id
    batch = {"input_ids": torch.tensor([[image + 50, *[image] * 4, image + 51, image + 52]]), "pixel_values": pixels}
    theirs = peft.PeftModel.from_pretrained(fresh(), tmp_path)
    assert (logits(theirs, **batch) - logits(model, **batch)).abs().max() < 1e-5
    again = fresh()
    adapters.attach(again, tmp_path)
    assert torch.equal(logits(again, **batch), logits(model, **batch))
    both = put(fresh(), {"kind": "lora", "component": "connector", "rank": 2})
    (refused,) = adapters.export(both, tmp_path / "both", trained=connector)
    assert "trained and adapted at once" in refused


def test_folders_that_are_not_theirs(tmp_path: Path) -> None:
    model = put(llama(), *KINDS["lora"])
    adapters.export(model, tmp_path / "a")
    with pytest.raises(SpecError, match="holds no adapters"):
        adapters.attach(llama(), tmp_path / "none")
    with pytest.raises(SpecError, match="another model"):
        adapters.attach(gpt2(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    text = json.loads((tmp_path / "b" / "adapters.json").read_text())
    (tmp_path / "b" / "adapters.json").write_text(json.dumps(text[1:]))
    with pytest.raises(SpecError, match="has no place in the model"):
        adapters.attach(llama(), tmp_path / "b")
    (tmp_path / "b" / "adapters.safetensors").write_bytes(b"no tensors")
    with pytest.raises(SpecError, match="damaged"):
        adapters.attach(llama(), tmp_path / "b")
