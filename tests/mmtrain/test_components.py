"""Parts of models by name, over the families of the installed transformers."""

from __future__ import annotations

import pytest
import torch

from mmtrain.components import aliases, components, modules
from tests.mmtrain.tiny_models import make

EXPECTED = {
    "llama": {"language", "head"},
    "llava": {"vision", "connector", "language", "head"},
    "idefics3": {"vision", "connector", "language", "head"},
    "internvl": {"vision", "connector", "language"},  # the head shares the embeddings' weights
    "gemma3": {"vision", "connector", "language"},
    "qwen2_5_vl": {"vision", "connector", "language", "head"},
    "qwen3_vl": {"vision", "connector", "language", "head"},
    "qwen2_audio": {"audio", "connector", "language", "head"},
}
CONNECTORS = {
    "llava": "multi_modal_projector",
    "idefics3": "connector",
    "internvl": "multi_modal_projector",
    "gemma3": "multi_modal_projector",
    "qwen2_5_vl": "visual.merger",
    "qwen3_vl": "visual.(merger|deepstack)",
    "qwen2_audio": "multi_modal_projector",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_has_its_part(name: str) -> None:
    model = make(name)
    named = aliases(model)
    assert set(named) == {full for full, _ in model.named_parameters()}
    assert {alias.split(".")[0] for alias in named.values()} == EXPECTED[name]
    for full, alias in named.items():
        part = alias.split(".")[0]
        holder = CONNECTORS.get(name, "no connector").split(".")
        is_connector = any(word in full for word in holder[-1].strip("()").split("|"))
        assert (part == "connector") == is_connector, (full, alias)
        assert (part == "language") == ("language_model" in full or "text_model" in full or name == "llama") or (
            part == "head" and full.startswith("lm_head")
        ), (full, alias)


@pytest.mark.parametrize("name", EXPECTED)
def test_parts_can_be_put_to_rest(name: str) -> None:
    """Frozen parts in `eval()`: their dropout and batch statistics stand still, and no other's do."""
    model = make(name).train()
    part = next(part for part in ("vision", "audio", "language") if part in components(model))
    for module in modules(model, part):
        module.eval()
    for full, alias in aliases(model).items():
        owner: torch.nn.Module = model.get_submodule(full.rpartition(".")[0])
        assert owner.training == (alias.split(".")[0] != part), full
