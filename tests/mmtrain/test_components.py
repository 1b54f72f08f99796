"""Parts of models by name, over the families of the installed transformers."""

from __future__ import annotations

import pytest
import torch

from mmtrain.components import aliases, components, modules
from tests.mmtrain.tiny_models import make

SEES = {"vision", "connector", "language", "head"}
TIED = {"vision", "connector", "language"}
"""The head shares the embeddings' weights."""
EXPECTED = {
    "llama": {"language", "head"},
    "llava": SEES,
    "llava_next": SEES,
    "llava_onevision": SEES,
    "idefics3": SEES,
    "smolvlm": SEES,
    "internvl": TIED,
    "gemma3": TIED,
    "paligemma": TIED,
    "qwen2_vl": SEES,
    "qwen2_5_vl": SEES,
    "qwen3_vl": SEES,
    "qwen2_5_omni": {"vision", "audio", "connector", "language", "head"},
    "qwen2_audio": {"audio", "connector", "language", "head"},
    "pixtral": SEES,
    "mistral3": TIED,
    "lfm2_vl": TIED,
    "native": {"vision", "audio", "connector", "language", "head"},
}
CONNECTORS = {
    "idefics3": "connector",
    "smolvlm": "connector",
    "llava_next": "multi_modal_projector|image_newline",
    "llava_onevision": "multi_modal_projector|image_newline",
    "qwen2_vl": "visual.merger",
    "qwen2_5_vl": "visual.merger",
    "qwen3_vl": "visual.merger|visual.deepstack",
    "qwen2_5_omni": "visual.merger|audio_tower.proj",
    "native": "connector",
}
"""What the name of a connector's parameter holds; where nothing is said, `multi_modal_projector`."""


@pytest.mark.parametrize("name", EXPECTED)
def test_every_parameter_has_its_part(name: str) -> None:
    model = make(name)
    named = aliases(model)
    assert set(named) == {full for full, _ in model.named_parameters()}
    assert {alias.split(".")[0] for alias in named.values()} == EXPECTED[name]
    for full, alias in named.items():
        part = alias.split(".")[0]
        is_connector = any(word in full for word in CONNECTORS.get(name, "multi_modal_projector").split("|"))
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
