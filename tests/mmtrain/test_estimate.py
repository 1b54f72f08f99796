"""Estimates of memory beside what torch allocates, over families, connectors, adapters and ways to train."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mmtrain import adapters, anchor, blocks, certificate, estimate, optim, sft
from mmtrain.adapters.spec import LoraSpec
from mmtrain.anchor import AnchorSpec
from mmtrain.certificate import Strategy
from mmtrain.collate import PackedCollator
from mmtrain.components import aliases
from mmtrain.ema import Ema, EmaSpec
from mmtrain.estimate import ERROR, Memory, memory
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.rules import Rule, Setting, resolve
from mmtrain.spec import TrainSpec
from tests.mmtrain.test_connectors import KINDS
from tests.mmtrain.test_native_connectors import MODEL
from tests.mmtrain.test_native_connectors import samples as captions
from tests.mmtrain.test_sft import arguments
from tests.mmtrain.tiny_models import make, samples, words

SPEC = TrainSpec.model_validate({"data": {"dataset": "x"}, "output": "y"})
QUICK = ("llava",)
FAMILIES: tuple[str, ...] = (
    "llama",
    "llava_next",
    "llava_onevision",
    "idefics3",
    "smolvlm",
    "internvl",
    "qwen2_vl",
    "qwen2_5_vl",
)
FAMILIES += ("qwen3_vl", "qwen2_audio", "pixtral", "mistral3", "qwen2_5_omni", "mixtral", "qwen3_vl_moe", "native")


def frozen(*patterns: str) -> list[Rule]:
    return [Rule(match=pattern, train=False) for pattern in patterns]


def settled(model: Any, rules: list[Rule]) -> dict[str, Setting]:
    return resolve(rules, list(aliases(model).values()), adapters.defaults(model))


def allocated(
    model: Any, given: dict[str, Any], spec: TrainSpec, settings: dict[str, Setting], strategy: Strategy = "varlen"
) -> int:
    """Bytes that a step of `spec.global_batch` passes over a batch takes at the most beside weights: what torch's
    profiler sees allocated and freed in its second step, and what the first left."""
    model.train()
    optim.thaw(model, settings, 1.0)
    certificate.adopt(model, strategy)
    blocks.recompute(model, spec.activation_checkpointing)
    moved = optim.optimizer(model, spec.optim.model_copy(update={"clip": None}), settings)

    def step() -> None:
        for _ in range(spec.global_batch):
            estimate._loss(spec, model, given, strategy).backward()
        moved.step()
        moved.zero_grad(set_to_none=True)

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        step()
    events = told.profiler.kineto_results.events()  # type: ignore[union-attr]
    live = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    moments = [v for state in moved.state.values() for n, v in state.items() if torch.is_tensor(v)]
    return most + sum(each.nbytes for each in moments)


def compared(
    made: Callable[[], Any],
    given: dict[str, Any],
    spec: TrainSpec = SPEC,
    rules: list[Rule] | None = None,
    strategy: Strategy = "varlen",
) -> Memory:
    """The estimate for a model, which is that of what is then allocated."""
    model = made()
    settings = settled(model, rules or [])
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}
    found = memory(spec, model, settings, given, strategy, passes=spec.global_batch)
    assert all(p is before[name][0] and torch.equal(p, before[name][1]) for name, p in model.named_parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert found.weights == weights
    expected = weights + allocated(model, given, spec, settings, strategy)
    print(f"{found.total / expected:.3f} {found.step.kept}")
    assert found.total - found.average == pytest.approx(expected, rel=ERROR)
    return found


ONCE = SPEC.model_copy(update={"global_batch": 1})


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(n, marks=pytest.mark.soak) for n in FAMILIES)])
def test_families(name: str) -> None:
    found = compared(functools.partial(make, name), PackedCollator()(samples(name)), ONCE)
    assert found.optimizer == pytest.approx(2 * found.gradients, rel=0.2)  # not of what a step does not reach
    assert found.step.kept["language"] > 0
    assert found.activations == sum(found.step.kept.values()) < found.total


@pytest.mark.soak
@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_families_with_dense_masks(name: str) -> None:
    compared(functools.partial(make, name), PackedCollator()(samples(name)), ONCE, strategy="masks")


@pytest.mark.parametrize(
    "told",
    [pytest.param(told, marks=() if told["kind"] == "qformer" else pytest.mark.soak) for told in KINDS],
    ids=lambda told: "-".join(map(str, told.values())),
)
def test_connectors(told: dict[str, Any], folder: Path) -> None:
    """Under a frozen tower."""
    spec = NativeSpec(**{**MODEL, "connector": told})
    batch = PackedCollator()(captions(folder, family_of(spec, words())))
    rules = frozen(r"vision\..*")
    found = compared(lambda: build(spec, words(), seed=1), batch, ONCE, rules)
    assert found.step.kept["connector"] > 0
    assert found.gradients < found.weights


def test_a_tower_that_is_anchored_lies_there_twice(folder: Path) -> None:
    spec = NativeSpec(**MODEL)
    batch = PackedCollator()(captions(folder, family_of(spec, words())))

    def made() -> Any:
        model = build(spec, words(), seed=1)
        anchor.hold(model, AnchorSpec.model_validate({"features": {}}))
        return model

    model = made()
    settings = settled(model, [])
    found = memory(ONCE, model, settings, batch)
    assert found.anchor == sum(p.nbytes for p in model.model.vision_tower.parameters())
    expected = found.weights + found.anchor + allocated(made(), batch, ONCE, settings)
    assert found.total == pytest.approx(expected, rel=ERROR)


def llama_batch(length: int = 192) -> dict[str, Any]:
    """A row of words of which all but the first are trained."""
    ids = torch.randint(0, len(words()), (1, length), generator=torch.Generator().manual_seed(0))
    borders = torch.tensor([0, length], dtype=torch.int32)
    return {
        "input_ids": ids,
        "labels": torch.where(torch.arange(length)[None] < 1, -100, ids),
        "position_ids": torch.arange(length)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": length,
        "max_length_k": length,
        "use_cache": False,
        "loss_weights": torch.ones(1, length),
        "keys": ["a"],
    }


def told(**more: Any) -> TrainSpec:
    return TrainSpec.model_validate({"data": {"dataset": "x"}, "output": "y", "global_batch": 1, **more})


WAYS: dict[str, dict[str, Any]] = {
    "accumulated": {"global_batch": 3},
    "foreach": {"optim": {"implementation": "foreach"}},
    "bf16": {"precision": "bf16"},
    "bf16 weights": {"precision": "bf16", "params": "bf16"},
    "again": {"activation_checkpointing": "full"},
}
OFTEN = ("accumulated", "bf16")


@pytest.mark.parametrize("way", [way if way in OFTEN else pytest.param(way, marks=pytest.mark.soak) for way in WAYS])
def test_ways_to_train(way: str) -> None:
    spec = told(**WAYS[way])

    def made() -> Any:
        model = make("llama")
        return model.bfloat16() if spec.params == "bf16" else model

    found = compared(made, llama_batch(), spec)
    assert ("casts" in found.step.kept) == (way == "bf16")
    if way == "foreach":
        assert found.step.moving > 0


def test_what_checkpointing_spares_and_what_is_frozen_costs_nothing() -> None:
    model, batch = make("llama"), llama_batch()
    whole, again, alone = (
        memory(spec, model, settled(model, rules), batch)
        for spec, rules in (
            (ONCE, []),
            (told(activation_checkpointing="full"), []),
            (ONCE, frozen(r"language\.(embed|layers).*")),
        )
    )
    assert again.activations < whole.activations / 2
    assert "forward" not in vars(model.model.layers[0]), "the model is as it was"
    assert alone.gradients == model.lm_head.weight.nbytes + model.model.norm.weight.nbytes
    assert alone.optimizer == pytest.approx(2 * alone.gradients, rel=0.01)
    assert alone.step.kept["language"] < whole.step.kept["language"] / 10


def test_logits_of_many_targets_are_made_piece_by_piece() -> None:
    """4,096 targets keep no more logits than none of them: the head makes them again."""
    found = memory(ONCE, make("llama"), settled(make("llama"), []), llama_batch(4096))
    assert found.step.kept["head"] < 1024 * len(words()) * 4


def test_adapters_and_averages() -> None:
    """A LoRA's parameters alone have gradients, moments and an average; its frozen base keeps what leads to them."""
    entry = LoraSpec(kind="lora", component="language", targets="attention", rank=4)
    spec = told(ema={"decay": 0.9})

    def made() -> Any:
        model = make("llama")
        adapters.install(model, adapters.plan(model, [entry], []), seed=0)
        return model

    model = made()
    found = compared(made, llama_batch(), spec)
    small = sum(p.nbytes for name, p in model.named_parameters() if ".lora" in name or "adapter" in name)
    assert found.gradients == small < found.weights / 4
    assert found.average == sum(v.nbytes for v in Ema(model, settled(model, []), EmaSpec()).values.values()) == small


def test_moments_in_eight_bits() -> None:
    """Of a large tensor a byte and a share of a scale for each value; of a small one float32."""
    assert estimate.eight_bits(torch.empty(4095)) == 2 * 4 * 4095
    assert estimate.eight_bits(torch.empty(8192)) == 2 * (8192 + 4 * 32)
    model = make("llama")
    found = memory(told(optim={"implementation": "paged_8bit"}), model, settled(model, []), llama_batch())
    assert found.gradients / 2 < found.optimizer < 2 * found.gradients


def test_what_is_sharded() -> None:
    """All but activations is spread; what lies in no layer, and two layers, are whole while the model computes."""
    model = make("llama")
    found = memory(ONCE, model, settled(model, []), llama_batch())
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    rest = found.weights - 2 * layer
    assert found.whole == 2 * rest + 3 * layer
    state = found.weights + found.gradients + found.optimizer
    assert found.sharded(8) == -(-state // 8) + found.whole + found.activations


def test_a_model_whose_step_hangs_on_values_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("llama")

    def strange(*args: Any, **kwargs: Any) -> Any:
        return model.lm_head.weight.sum() * float(model.lm_head.weight.sum())

    monkeypatch.setattr(estimate, "_loss", strange)
    with pytest.raises(RuntimeError):
        memory(ONCE, model, settled(model, []), llama_batch())
    assert not any(type(p).__name__ == "FakeTensor" for p in model.parameters())


def test_a_dry_run_tells_memory_and_operations(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "memory weights " in shown
    assert "optimizer (AdamW, two moments in fp32) " in shown
    assert "activations " in shown
    assert f"within {ERROR:.0%} of what torch allocates on a CPU" in shown
    assert "with activation_checkpointing: full" in shown
    assert "sharded over 2" in shown
    assert "TFLOP in the first step" in shown
    assert '"dataset":' in shown  # the whole config, as it was resolved
    assert not (tmp_path / "run").exists()
