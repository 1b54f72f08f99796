"""Taking adapters, putting them back, and merging them: the same logits, or a refusal."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mmdata.errors import SpecError
from mmtrain import adapters
from tests.mmtrain.adapters.models import gpt2, llama, logits, put

MERGED: dict[str, list[dict[str, Any]]] = {
    kind: [{"kind": kind, "component": "language", "rank": 3}] for kind in ("lora", "rslora", "dora")
}
MERGED["ia3"] = [{"kind": "ia3", "component": "language"}]
MERGED["pissa"] = [{"kind": "dora", "component": "language", "init": "pissa", "rank": 3}]
MERGED["hybrid"] = [*MERGED["dora"], *MERGED["ia3"], {"kind": "lora", "component": "head", "rank": 2}]


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("kind", MERGED)
def test_merged_is_adapted(kind: str, build: Any) -> None:
    entries = [entry for entry in MERGED[kind] if entry["component"] != "head" or build is llama]  # GPT-2's is tied
    model = put(build(), *entries, move=0.05)
    expected = logits(model)
    plain = build().state_dict().keys()
    adapters.merge(model)
    assert (logits(model) - expected).abs().max() < 1e-5
    assert model.state_dict().keys() == plain
    assert not list(adapters.adapters(model))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"kind": "prefix", "component": "language"}, "a prefix is keys and values"),
        ({"kind": "bottleneck", "component": "language"}, "a bottleneck is not linear"),
    ],
)
def test_what_cannot_be_merged_is_left_as_it_is(entry: dict[str, Any], why: str) -> None:
    model = put(llama(), *MERGED["lora"], entry)
    expected = logits(model)
    with pytest.raises(SpecError, match=why):
        adapters.merge(model)
    assert torch.equal(logits(model), expected)


def test_shared_weights_are_not_merged_into() -> None:
    model = put(llama(tie_word_embeddings=True), {"kind": "lora", "component": "head", "rank": 2})
    with pytest.raises(SpecError, match="shared with another module"):
        adapters.merge(model)


def test_state_comes_back_or_is_refused() -> None:
    entries = [*MERGED["pissa"], {"kind": "prefix", "component": "language"}]
    model = put(llama(), *entries)
    taken = adapters.adapter_state(model, ["lm_head.weight"])
    assert {name.split(".")[-1] for name in taken} == {"a", "b", "a0", "b0", "magnitude", "keys", "values", "weight"}
    other = put(llama(), *entries, move=0.0)
    adapters.load_adapter_state(other, taken)
    assert torch.equal(logits(other), logits(model))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    some = next(iter(taken))
    for wrong, message in (
        ({name: tensor for name, tensor in taken.items() if name != some}, "is missing"),
        ({**taken, "model.new": torch.ones(1)}, "has no place"),
        ({**taken, some: torch.ones(1)}, r"is \[1\], not"),
    ):
        with pytest.raises(SpecError, match=message):
            adapters.load_adapter_state(other, wrong)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
