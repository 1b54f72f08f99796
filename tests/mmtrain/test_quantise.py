"""Quantisation-aware training: rounded as torch.ao rounds, straight-through gradients, and through the command: frozen
parts stay, runs go on, what is exported computes what learned, mistakes are named."""

from __future__ import annotations

import copy
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.ao.nn.qat import Linear as TheirLinear
from torch.ao.quantization import FakeQuantize, PerChannelMinMaxObserver, QConfig
from transformers import AutoModelForImageTextToText

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmtrain import blocks, certificate, checkpoint, estimate, export, quantise, sft
from mmtrain.anchor import Anchor, AnchorSpec
from mmtrain.components import aliases
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import loss_sum
from mmtrain.quantise import QuantiseRule, RoundedLinear, rounded
from mmtrain.restore import restore
from mmtrain.tensor_files import TensorFiles
from tests.mmtrain import ranks
from tests.mmtrain.adapters.models import gpt2, ids, llama, logits, put
from tests.mmtrain.test_estimate import compared, llama_batch, told
from tests.mmtrain.test_models import config
from tests.mmtrain.test_native_connectors import MODEL, samples
from tests.mmtrain.test_sft import same_weights, trace
from tests.mmtrain.tiny_models import make, words

LANGUAGE = QuantiseRule(match=r"language\..*")
LORA = {"kind": "lora", "component": "language", "rank": 2}


def theirs(bits: int) -> Any:
    """torch.ao's module for weights."""
    most = 2 ** (bits - 1) - 1
    grid: dict[str, Any] = {"quant_min": -most, "quant_max": most, "dtype": torch.qint8, "ch_axis": 0}
    scheme = torch.per_channel_symmetric
    return FakeQuantize.with_args(observer=PerChannelMinMaxObserver, qscheme=scheme, **grid)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_it_is_torch_ao_s_layer_and_gradients_go_straight_through(bits: int) -> None:
    torch.manual_seed(bits)
    layer = nn.Linear(24, 9)
    with torch.no_grad():
        layer.weight.mul_(torch.logspace(-6, 3, 9)[:, None])  # each output has its own scale
        layer.weight[3] = 0
        layer.weight[4] = layer.weight[4].abs()
    qconfig = QConfig(activation=nn.Identity, weight=theirs(bits))  # type: ignore[no-untyped-call]
    other = TheirLinear(24, 9, qconfig=qconfig)
    other.load_state_dict(layer.state_dict(), strict=False)
    ours = RoundedLinear.of(copy.deepcopy(layer), bits)
    x = torch.randn(5, 24)
    made, wanted = ours(x), other(x)
    assert torch.equal(made, wanted)
    assert not torch.equal(made, layer(x))
    gradient = torch.randn(5, 9)
    made.backward(gradient)
    wanted.backward(gradient)
    layer(x).backward(gradient)
    mine: Any = ours.weight.grad
    assert torch.equal(mine, other.weight.grad)  # type: ignore[arg-type]
    assert torch.equal(mine, layer.weight.grad), "of every weight, the largest too"  # type: ignore[arg-type]
    on_grid = rounded(layer.weight.detach(), bits)
    assert max(len(row.unique()) for row in on_grid) <= 2**bits - 1
    half = layer.weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1) / 2
    assert ((on_grid - layer.weight).abs() <= half * 1.001 + 1e-7).all()
    # What observes the rounded weights finds the same whole numbers, which is what a converter does.
    assert torch.equal(whole_numbers(on_grid, bits), whole_numbers(layer.weight.detach(), bits))


def whole_numbers(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """As torch keeps a weight in 8 bits, by the scales that torch.ao observes."""
    module = theirs(bits)()
    module(weight)
    scales, zeros = module.calculate_qparams()
    return torch.quantize_per_channel(weight, scales.double(), zeros.long(), 0, torch.qint8).int_repr()


def test_weights_in_half_are_rounded_from_float32() -> None:
    weight = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).bfloat16()
    made = rounded(weight, 8)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, rounded(weight.float(), 8).bfloat16())
    broken = torch.ones(2, 3)
    broken[0, 1] = torch.nan
    assert rounded(broken, 8)[0].isnan().all(), "what broke is not hidden"


def test_packed_is_alone_and_names_stay(folder: Path) -> None:
    spec = NativeSpec(**MODEL)
    plain, model = build(spec, words(), seed=1), build(spec, words(), seed=1)
    quantise.install(model, [QuantiseRule(match=r"(vision|connector|language|head).*", bits=4), LANGUAGE])
    assert list(model.state_dict()) == list(plain.state_dict())
    assert aliases(model) == aliases(plain)
    bits = {alias.split(".")[0]: layer.bits for layer, alias in _layers(model)}
    assert bits == {"vision": 4, "connector": 4, "language": 8, "head": 4}, "the later rule"
    certificate.adopt(model, "varlen")
    certificate.adopt(plain, "varlen")
    found, collate = samples(folder, family_of(spec, words())), PackedCollator()
    row, weight = loss_sum(model, collate(found))
    assert abs(float(row - loss_sum(plain, collate(found))[0])) > 1e-3
    (row / weight).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    total = 0.0
    for sample in found:
        alone, _ = loss_sum(model, collate(sample))
        total += float(alone.detach())
        (alone / weight).backward()
    assert abs(total - float(row)) / float(weight) < 1e-5
    for name, gradient in together.items():
        assert (model.get_parameter(name).grad - gradient).abs().max() < 1e-5, name
    # What a tower is held to is the tower in full.
    held = Anchor(AnchorSpec(features={"kind": "cosine"}), model.model.vision_tower, 1)  # type: ignore[arg-type]
    assert not quantise.layers(held.teacher)
    assert quantise.layers(model.model.vision_tower)
    # Rounded for good, it computes the same.
    assert quantise.settle(model) == len(_layers(plain)) > 8
    assert torch.equal(loss_sum(model, collate(found))[0], row)
    assert {type(module) for module in model.modules()} == {type(module) for module in plain.modules()}


def _layers(model: Any) -> list[tuple[Any, str]]:
    named = aliases(model)
    return [(m, named[f"{n}.weight"]) for n, m in model.named_modules() if isinstance(m, nn.Linear)]


def rounded_llama() -> Any:
    model = make("llama")
    quantise.install(model, [QuantiseRule(match=".*")])
    return model


def test_layers_that_run_again_learn_the_same() -> None:
    batch, gradients = llama_batch(), []
    for again in ("none", "full"):
        model = rounded_llama().train()
        certificate.adopt(model, "varlen")
        blocks.recompute(model, again)  # type: ignore[arg-type]
        loss_sum(model, batch)[0].backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_the_estimate_knows_of_it() -> None:
    """A copy in float32 and a byte for where the gradient passes, of each weight."""
    found, plain = (compared(each, llama_batch(), told()) for each in (rounded_llama, lambda: make("llama")))
    weights = sum(layer.weight.numel() for layer in quantise.layers(rounded_llama()))
    assert found.activations - plain.activations == 5 * weights > 0


RULES = [{"match": r"language\..*"}, {"match": r"connector\..*", "bits": 4}]
TOLD: dict[str, Any] = {
    "quantise_aware": RULES,
    "parameters": [{"match": r"(vision|language\.layers).*", "train": False}],
    "checkpoint": {"every": 1, "keep": 9},
    "optim": {"lr": 0.01, "warmup_steps": 0},
    "steps": 4,
}


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("rounded")
    assert sft.main(config(place, folder, MODEL, **TOLD)) == 0
    return place / "run"


def test_a_run_learns_goes_on_and_leaves_frozen_parts(folder: Path, finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(finished, again, symlinks=True)
    for saved in checkpoint.found(again)[2:]:
        shutil.rmtree(saved)
    assert sft.main(config(tmp_path, folder, MODEL, **TOLD)) == 0
    assert trace(again) == trace(finished)
    assert same_weights(again, finished)
    first, last = (load_file(checkpoint.found(finished)[at] / "model.safetensors") for at in (0, -1))
    moved = {name for name in first if not torch.equal(first[name], last[name])}
    frozen = {n for n, alias in aliases(restore(finished).model).items() if re.match(r"vision|language\.layers", alias)}
    assert moved == first.keys() - frozen
    assert not any("scale" in name or "bits" in name for name in first)


def test_what_is_exported_computes_what_learned(folder: Path, finished: Path, tmp_path: Path) -> None:
    """Weights on their grids, which a plain model loads; in full without the option."""
    assert export.main([str(finished), "--output", str(tmp_path / "rounded"), "--quantised"]) == 0
    assert export.main([str(finished), "--output", str(tmp_path / "full")]) == 0
    run = restore(finished)
    family = family_of(NativeSpec(**MODEL), run.tokenizer)
    batch = PackedCollator()(samples(folder, family))
    certificate.adopt(run.model, "varlen")
    learned = loss_sum(run.model.train(), batch)[0]
    saved = load_file(checkpoint.found(finished)[-1] / "model.safetensors")
    bits = {f"{name}.weight": m.bits for name, m in run.model.named_modules() if isinstance(m, RoundedLinear)}
    assert set(bits.values()) == {4, 8}
    for name, same in (("rounded", True), ("full", False)):
        loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / name, dtype=torch.float32)
        state = loaded.state_dict()
        assert not quantise.layers(loaded)
        for key, value in saved.items():
            expected = rounded(value, bits[key]) if same and key in bits else value
            assert torch.equal(state[key], expected), key
        # Kernels go by where weights lie in memory: those of the file into a model like the run's.
        plain = copy.deepcopy(run.model)
        quantise.remove(plain)
        plain.load_state_dict(state)
        assert torch.equal(loss_sum(plain.train(), batch)[0], learned) == same
        certificate.adopt(loaded, "varlen")
        assert (abs(float(loss_sum(loaded, batch)[0] - learned)) < 1e-4) == same


def test_beside_a_lora(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The frozen weights are rounded, the adapter is not; the sum of both lies on no grid. With all else in shards."""
    model = put(llama(), {**LORA, "targets": ["q_proj", "down_proj"]})
    plain = logits(model)
    quantise.install(model, [LANGUAGE])
    made = logits(model)
    assert (made - plain).abs().max() > 1e-4
    layer = model.model.layers[0].self_attn.q_proj
    x = torch.randn(3, 32)
    by_hand = x @ rounded(layer.weight, 8).T + layer.bias + x @ layer.lora.a.T @ layer.lora.b.T * layer.lora.scaling
    torch.testing.assert_close(layer(x), by_hand)
    assert len(quantise.adapted(model)) == 6
    quantise.settle(model)
    assert torch.equal(logits(model), made)

    both = {**TOLD, "adapters": [LORA], "steps": 1, "parameters": []}
    assert sft.main(config(tmp_path, folder, MODEL, **both)) == 0
    run, output = str(tmp_path / "run"), str(tmp_path / "out")
    assert export.main([run, "--output", output, "--quantised"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"--quantised: language\.\S+ has an adapter .* --adapters keep", line)
    assert not (tmp_path / "out").exists()
    assert export.main([run, "--output", output, "--quantised", "--adapters", "keep"]) == 0
    assert "rounded the weights of 9 linear layers" in capsys.readouterr().out


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_shards_of_two_learn_what_a_whole_model_does(folder: Path, tmp_path: Path) -> None:
    """Layers see whole weights in float32, whose rows they round; by processes over gloo."""
    more = {**TOLD, "data": {"packing": "none"}, "steps": 2, "global_batch": 2}
    for place in (tmp_path / "whole", tmp_path / "shards"):
        place.mkdir()
    assert sft.main(config(tmp_path / "whole", folder, MODEL, **more)) == 0
    mode = {"distributed": {"mode": "fsdp"}}
    ranks.run(2, config(tmp_path / "shards", folder, MODEL, **more, **mode), tmp_path / "shards")
    whole, shards = (trace(tmp_path / name / "run") for name in ("whole", "shards"))
    assert [line["keys_crc32c"] for line in whole] == [line["keys_crc32c"] for line in shards]
    assert [line["loss"] for line in whole] == pytest.approx([line["loss"] for line in shards], abs=1e-6)
    one, two = (TensorFiles(checkpoint.found(tmp_path / name / "run")[-1], "model") for name in ("whole", "shards"))
    assert one.described.keys() == two.described.keys()
    for name in one.described:
        torch.testing.assert_close(one.whole(name), two.whole(name), atol=1e-5, rtol=0, msg=name)


def test_the_plan_tells_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "LOOKED_AT", 1)  # the largest batch is not what is asked for here
    more: dict[str, Any] = {"data": {"epochs": 1}, "activation_checkpointing": "full"}
    assert sft.main([*config(tmp_path, folder, MODEL, **TOLD, **more), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^rounded +7 layers +[\d,]+ weights  language\\\.\.\*: 8 bits, -127 to 127", said, re.MULTILINE)
    assert re.search(r"^rounded +2 layers +[\d,]+ weights  connector\\\.\.\*: 4 bits, -7 to 7", said, re.MULTILINE)
    assert re.search(r"^memory weights", said, re.MULTILINE), "estimated with it"
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_rounded_is_named(
    folder: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: list[str]) -> str:
        assert sft.main([*arguments, "--dry-run"]) == 2
        return said()

    def said() -> str:
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("[transformers]")]
        if re.search(": 1 mistake$", lines[0]):  # of the config alone: below it, and where to read on
            return "".join(lines[1:-1])
        (line,) = lines
        return line

    line = refused(config(tmp_path, folder, MODEL, quantise_aware=[{"match": "nothing"}]))
    assert "quantise_aware.0.match: 'nothing' matches no linear layer; there are vision." in line
    line = refused(config(tmp_path, folder, MODEL, quantise_aware=[{"match": "("}]))
    assert "not a regular expression" in line
    line = refused(config(tmp_path, folder, MODEL, quantise_aware=[{"match": ".*", "bits": 16}]))
    assert "bits" in line
    shards = {"precision": "bf16", "distributed": {"mode": "fsdp", "mixed_precision": True}}
    line = refused(config(tmp_path, folder, MODEL, quantise_aware=RULES, **shards))
    assert "set distributed.mixed_precision: false" in line
    for model, match, words_of_it in (
        (llama(), ".*norm", "matches no linear layer"),
        (llama(tie_word_embeddings=True), ".*", "head shares its weight"),
        (gpt2(), r"language\..*", "is a Conv1D"),
        (put(llama(), {**LORA, "kind": "dora"}), ".*q_proj", "has a DoRA"),
    ):
        with pytest.raises(SpecError, match=words_of_it):
            quantise.install(model, [QuantiseRule(match=match)])
        assert not quantise.layers(model)
    if importlib.util.find_spec("bitsandbytes"):
        model = put(llama(), {**LORA, "kind": "qlora"})
        with pytest.raises(SpecError, match="is in 4 bits"):
            quantise.install(model, [LANGUAGE])
        assert logits(model, input_ids=ids()).isfinite().all()
    assert sft.main(config(tmp_path, folder, MODEL, steps=1)) == 0
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "out"), "--quantised"]) == 2
    assert "has no quantise_aware" in said()
