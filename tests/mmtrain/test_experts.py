"""Experts: routed as Mixtral routes, balanced by Switch's formula sample by sample, packed as alone; experts by
modality; through the command."""

from __future__ import annotations

import itertools
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
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock, load_balancing_loss_func

from mmdata.collate import PackedCollator, PaddedCollator, model_inputs
from mmdata.errors import SpecError
from mmtrain import auxiliary, certificate, checkpoint, export, sft
from mmtrain.blocks import recompute
from mmtrain.models import build, family_of
from mmtrain.models.beside import Tokens
from mmtrain.models.experts import Experts, read
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses, target_weights
from tests.mmtrain.test_native import samples, words
from tests.mmtrain.test_native_connectors import command
from tests.mmtrain.test_sft import same_weights, trace
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts

HIDDEN, INNER, COUNT = 16, 24, 4
CU = (0, 5, 6, 14, 20)
MODALITY = torch.tensor([0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 2, 2, 0, 0, 0, 1, 0, 2, 0, 0])
SMALL = {"hidden": 32, "layers": 2, "heads": 4}


def llama(width: int = HIDDEN) -> Any:
    return hf.LlamaConfig(hidden_size=width, intermediate_size=INNER, num_attention_heads=2)


def made(**told: Any) -> Experts:
    torch.manual_seed(0)
    module = Experts(read({"kind": "routed", "count": COUNT, **told}), LlamaMLP(llama()), HIDDEN)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    module.tokens = Tokens(modality=MODALITY, cu_seqlens=torch.tensor(CU))
    return module.eval()


def rows() -> torch.Tensor:
    return torch.randn(CU[-1], HIDDEN, generator=torch.Generator().manual_seed(4))


def said(module: Experts, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with auxiliary.recording() as found:
        result = module(x)
    (values,) = found["load_balance"]
    return result, values


def test_one_router_for_all_is_mixtrals() -> None:
    mine: Any = made(per="model")
    config = hf.MixtralConfig(
        hidden_size=HIDDEN, intermediate_size=INNER, num_local_experts=COUNT, num_experts_per_tok=2
    )
    config._experts_implementation = "eager"
    theirs = MixtralSparseMoeBlock(config)
    state = {"gate.weight": mine.router.weight}
    gates = [torch.cat([each.gate_proj.weight, each.up_proj.weight]) for each in mine.experts]
    state["experts.gate_up_proj"] = torch.stack(gates)
    state["experts.down_proj"] = torch.stack([each.down_proj.weight for each in mine.experts])
    theirs.load_state_dict(state)
    found, values = said(mine, rows())
    assert (found - theirs(rows()[None])[0]).abs().max() < 1e-5
    logits = F.linear(rows(), mine.router.weight)
    for number, (a, b) in enumerate(itertools.pairwise(CU)):
        expected = load_balancing_loss_func((logits[a:b],), COUNT, 2)
        assert abs(float(values[number] - expected)) < 1e-5


def test_one_expert_of_many_weighs_its_likelihood() -> None:
    """Switch: so the router learns of what was made, not of the balance alone."""
    module: Any = made(per="model", top_k=1)
    found, _ = said(module, rows())
    likely = F.linear(rows(), module.router.weight).softmax(-1)
    best = likely.argmax(-1)
    expected = torch.stack([likely[at, best[at]] * module.experts[best[at]](x) for at, x in enumerate(rows())])
    assert (found - expected).abs().max() < 1e-5
    found.sum().backward()
    assert module.router.weight.grad.any()


def by_hand(module: Any, x: torch.Tensor, capacity: float | None) -> tuple[torch.Tensor, list[float]]:
    """Token by token, in plain loops."""
    table = module.router.weight.view(3, COUNT, HIDDEN)
    result, values = torch.zeros_like(x), []
    for a, b in itertools.pairwise(CU):
        taken = [0] * COUNT
        most = math.inf if capacity is None else math.ceil(capacity * 2 * (b - a) / COUNT)
        groups: dict[int, list[tuple[list[int], torch.Tensor]]] = {}
        for at in range(a, b):
            kind = int(MODALITY[at])
            likely = (table[kind] @ x[at]).softmax(-1)
            best = sorted(range(COUNT), key=lambda e: -float(likely[e]))[:2]
            total = sum(likely[e] for e in best)
            for expert in best:
                if taken[expert] < most:
                    result[at] += likely[expert] / total * module.experts[expert](x[at])
                taken[expert] += 1
            groups.setdefault(kind, []).append((best, likely))
        value = 0.0
        for tokens in groups.values():
            share = [sum(e in best for best, _ in tokens) / len(tokens) for e in range(COUNT)]
            mean = [float(sum(likely[e] for _, likely in tokens)) / len(tokens) for e in range(COUNT)]
            value += len(tokens) * COUNT * sum(s * m for s, m in zip(share, mean, strict=True))
        values.append(value / (b - a))
    return result, values


@pytest.mark.parametrize("capacity", [None, 1.0, 0.5, 8.0])
def test_each_modality_has_its_router_and_each_expert_its_room(capacity: float | None) -> None:
    module = made(capacity=capacity).train()
    found, values = said(module, rows())
    expected, balance = by_hand(module, rows(), capacity)
    assert (found - expected).abs().max() < 1e-5
    assert values.tolist() == pytest.approx(balance, abs=1e-5)
    if capacity == 0.5:
        assert not torch.equal(module.eval()(rows()), found), "in evaluation nobody is turned away"


@pytest.mark.parametrize("told", [{"capacity": 0.75}, {"top_k": 1}, {"kind": "modality"}])
def test_samples_in_a_row_are_samples_alone(told: dict[str, Any]) -> None:
    """In training, with experts that are full, to the bit in what is chosen; no token knows of a later one, but for how
    long its sample is."""
    torch.manual_seed(0)
    if told.get("kind") == "modality":
        module = Experts(read(told), LlamaMLP(llama()), HIDDEN)
    else:
        module = made(**told)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    module.train()
    x = rows().requires_grad_()
    module.tokens = Tokens(modality=MODALITY, cu_seqlens=torch.tensor(CU))
    with auxiliary.recording() as found:
        row = module(x)
    for number, (a, b) in enumerate(itertools.pairwise(CU)):
        module.tokens = Tokens(modality=MODALITY[a:b], cu_seqlens=torch.tensor([0, b - a]))
        with auxiliary.recording() as alone:
            assert (module(x[a:b]) - row[a:b]).abs().max() < 1e-5
        for name, values in alone.items():
            assert abs(float(values[0] - found[name][0][number])) < 1e-5
    for at in range(CU[-1]):
        (gradient,) = torch.autograd.grad(row[at].sum(), x, retain_graph=True, allow_unused=True)
        assert gradient is None or set(torch.nonzero(gradient.any(1))[:, 0].tolist()) <= {at}
    changed = x.detach().clone()
    changed[10:14] += 3.0
    module.tokens = Tokens(modality=MODALITY, cu_seqlens=torch.tensor(CU))
    after = module(changed)
    assert torch.equal(after[:6], row[:6])
    assert (after[6:10] - row[6:10]).abs().max() < 1e-5
    assert torch.equal(after[14:], row[14:])


def test_the_balance_is_learned() -> None:
    """From routers that send all to two experts of four to even shares, where it is top_k."""
    module: Any = made()
    with torch.no_grad():
        module.router.weight.view(3, COUNT, HIDDEN)[:, :2] += 2 * rows().mean(0)
    begun = float(said(module, rows())[1].mean())
    optim = torch.optim.Adam([module.router.weight], lr=0.05)
    for _ in range(60):
        optim.zero_grad()
        said(module, rows())[1].mean().backward()
        optim.step()
    ended = float(said(module, rows())[1].mean())
    assert ended < begun - 0.1, (begun, ended)


def test_padding_goes_nowhere_and_counts_nothing() -> None:
    module = made()
    modality = torch.cat([MODALITY[:5], torch.full((3,), -1)])
    module.tokens = Tokens(modality=modality, cu_seqlens=torch.tensor([0, 8]))
    padded, value = said(module, rows()[:8])
    module.tokens = Tokens(modality=MODALITY[:5], cu_seqlens=torch.tensor([0, 5]))
    plain, values = said(module, rows()[:5])
    assert (padded[:5] - plain).abs().max() < 1e-6
    assert not padded[5:].any()
    assert abs(float(value - values)) < 1e-6


def told(**more: Any) -> NativeSpec:
    views = {"image": {"max_pixels": 96 * 96}, "video": {"max_pixels": 64 * 64}}
    mine = {"kind": "native", "vision": SMALL, "audio": SMALL, "language": SMALL, "views": views}
    return NativeSpec(**{**mine, **more})


WHOLE = [
    {"experts": {"kind": "routed", "capacity": 1.0}},
    {"experts": {"kind": "modality"}, "fusion": {"kind": "gated", "every": 2}},
]


@pytest.mark.parametrize("more", WHOLE, ids=["routed", "modality-gated"])
def test_in_a_model_packed_is_alone(more: dict[str, Any], media: Path, tmp_path: Path) -> None:  # noqa: F811
    """In training: main loss, balance and gradients of a row are those of its samples, of layers that run again too,
    and of padded rows; what is saved loads; words come one by one."""
    spec = told(**more)
    model = build(spec, words(), seed=1)
    for parameter in model.parameters():
        if parameter.ndim > 1 or not parameter.detach().any():
            nn.init.normal_(parameter, std=0.2)
    found, collate = samples(media, family_of(spec, words())), PackedCollator()
    terms = auxiliary.declared(model)
    certificate.adopt(model, "varlen")
    model.train()

    def run(batches: list[dict[str, Any]], strategy: Any = "varlen") -> tuple[float, float, dict[str, torch.Tensor]]:
        model.zero_grad(set_to_none=True)
        main = beside = 0.0
        for batch in batches:
            weights = target_weights(batch, "token")
            with auxiliary.recording() as values:
                summed, _ = losses(model, batch, weights, strategy)
            more = auxiliary.summed(terms, values, auxiliary.units(model, batch, weights, terms))
            total = sum(more.values(), torch.zeros(()))
            (summed / 50 + total).backward()
            main, beside = main + float(summed.detach()), beside + float(total.detach())
        return main, beside, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    together = run([collate(found)])
    for other in (run([collate(sample) for sample in found]), run([PaddedCollator(pad_id=0)(found)], "single")):
        assert other[0] == pytest.approx(together[0], rel=1e-5)
        assert other[1] == pytest.approx(together[1], rel=1e-5)
        assert other[2].keys() == together[2].keys()
        for name, gradient in together[2].items():
            assert (other[2][name] - gradient).abs().max() < 1e-4, name
    model.save_pretrained(tmp_path)
    recompute(model, "full")
    again = run([collate(found)])
    assert all(torch.equal(again[2][name], gradient) for name, gradient in together[2].items())
    loaded = hf.AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    inputs = model_inputs(collate(found[0]))
    given = {k: v for k, v in inputs.items() if k.startswith(("pixel", "image", "input"))}
    expected = given["input_ids"]
    for _ in range(3):
        with torch.no_grad():
            ids = {**given, "input_ids": expected}
            expected = torch.cat([expected, loaded(**ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    how = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "eos_token_id": None}
    assert torch.equal(loaded.generate(**given, **how), expected)


@torch.no_grad()
def test_experts_of_a_pretrained_model_begin_as_its_mlps(tmp_path: Path) -> None:
    """By modality to the bit; by routers but for the order of sums, as shares add up to 1."""
    config = hf.LlamaConfig(**{**llama(32).to_dict(), "vocab_size": len(words()), "num_hidden_layers": 2})
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    mine = {"audio": None, "language": {"kind": "hf", "path": str(tmp_path)}}
    ids = torch.tensor([[5, 9, 4, 7]])
    plain = build(told(**mine), words(), seed=0).eval()(input_ids=ids).logits
    modality = build(told(**mine, experts={"kind": "modality"}), words(), seed=0).eval()
    assert torch.equal(modality(input_ids=ids).logits, plain)
    routed = build(told(**mine, experts={"kind": "routed"}), words(), seed=0).eval()
    assert (routed(input_ids=ids).logits - plain).abs().max() < 1e-5


def test_what_does_not_fit_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="top_k 5 of 4 experts"):
        read({"kind": "routed", "top_k": 5})
    config = hf.MixtralConfig(vocab_size=len(words()), hidden_size=32, intermediate_size=8, num_hidden_layers=1)
    config.save_pretrained(tmp_path)
    spec = told(language={"kind": "hf", "path": str(tmp_path), "random": True}, experts={"kind": "routed"})
    with pytest.raises(SpecError, match=r"model\.experts: a mixtral has experts already"):
        build(spec, words(), seed=0)


EXPERTS = {"language": SMALL, "experts": {"kind": "routed", "count": 3, "capacity": 2.0}}
LEARNED = [{"match": r"(vision|connector)\..*", "train": False}]


def test_a_run_balances_goes_on_and_exports(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft.main(command(tmp_path / "run", folder, EXPERTS, parameters=LEARNED)) == 0
    assert "load_balance: its mean over each sample, times 0.01" in capsys.readouterr().out
    lines = trace(tmp_path / "run")
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert all(1.9 < line["aux/load_balance"] < 6 for line in lines)  # top_k where all is even
    before, after = (load_file(checkpoint.found(tmp_path / "run")[at] / "model.safetensors") for at in (0, -1))
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert any("router" in name for name in moved)
    assert not any("vision" in name for name in moved)
    again = command(tmp_path / "again", folder, EXPERTS, parameters=LEARNED)
    older = checkpoint.found(tmp_path / "run")[0]
    assert sft.main([*again, "--resume", str(older)]) == 0
    assert trace(tmp_path / "again") == lines[checkpoint.step_of(older) :]
    assert same_weights(tmp_path / "again", tmp_path / "run")
    assert export.main([str(tmp_path / "run"), "--output", str(tmp_path / "out")]) == 0
    model = hf.AutoModelForImageTextToText.from_pretrained(tmp_path / "out", local_files_only=True)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in after.items())
