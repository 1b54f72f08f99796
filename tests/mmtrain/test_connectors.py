"""Connectors of every kind: the tokens that the plan promises, each picture for itself, against independent or
published computations with the same weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers as hf
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F
from transformers.models.idefics.perceiver import IdeficsPerceiverResampler
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLMultiModalProjector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector
from transformers.models.qwen2_vl.modeling_qwen2_vl import PatchMerger

from mmdata.views.positions import resize_table, sincos_2d
from mmtrain import auxiliary
from mmtrain.models.connectors import CONNECTORS, Patches, in_blocks, make, read, tokens_of
from mmtrain.models.connectors.compressed import averaged, bipartite, greedy

WIDTH, OUT = 16, 24
GRIDS = ((4, 4), (2, 2), (2, 6), (4, 4))
LENGTHS = tuple(rows * columns for rows, columns in GRIDS)
KINDS: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "mlp"},
    {"kind": "mlp", "norm": False},
    {"kind": "pixel_shuffle"},
    {"kind": "pixel_shuffle", "projection": "linear"},
    {"kind": "patch_merger"},
    {"kind": "adaptive_pool", "tokens": 9},
    {"kind": "c_abstractor", "tokens": 4, "hidden": 8, "depth": 2},
    {"kind": "cross_attention", "tokens": 4, "heads": 2},
    {"kind": "cross_attention", "tokens": 3, "heads": 2, "hidden": 8, "positions": "none"},
    {"kind": "perceiver", "tokens": 5, "layers": 2, "heads": 2, "head_width": 6},
    {"kind": "perceiver", "tokens": 5, "layers": 1, "heads": 2, "head_width": 6, "hidden": 8},
    {"kind": "qformer", "tokens": 3, "hidden": 16, "layers": 3, "heads": 2, "inner": 20},
    {"kind": "hierarchical_pool", "tokens": 3, "regions": 9, "heads": 2},
    {"kind": "clusters", "tokens": 4},
    {"kind": "token_merge", "tokens": 5},
    {"kind": "token_merge", "tokens": 5, "rule": "greedy"},
]


def made(told: dict[str, Any], merge: int | None = None) -> tuple[Any, nn.Module, int]:
    """A spec, its module with random weights (none of them zero), and the blocks that it merges."""
    spec = read(told)
    merge = merge or (2 if spec.merges else 1)
    torch.manual_seed(1)
    module = make(spec, WIDTH, OUT, merge)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return spec, module, merge


def row(seed: int = 0) -> torch.Tensor:
    return torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("told", KINDS, ids=lambda told: "-".join(map(str, told.values())))
def test_a_picture_in_a_row_is_a_picture_alone(told: dict[str, Any]) -> None:
    """As many tokens as promised; tokens and gradients of a row are those of its pictures alone; another picture's
    pixels move none by a bit, and nothing flows back to it."""
    spec, module, merge = made(told)
    x = row().requires_grad_()
    tokens = [tokens_of(spec, merge, length) for length in LENGTHS]
    found = module(Patches(rows=x, lengths=LENGTHS, grids=GRIDS))
    assert found.shape == (sum(tokens), OUT)
    target = torch.randn(found.shape, generator=torch.Generator().manual_seed(5))
    (found * target).sum().backward()
    together = [parameter.grad.clone() for parameter in module.parameters()]  # all of them take part
    whole, x.grad = x.grad.clone(), None
    module.zero_grad()
    alone = [
        module(Patches(rows=mine, lengths=(length,), grids=(grid,)))
        for mine, length, grid in zip(x.split(LENGTHS), LENGTHS, GRIDS, strict=True)
    ]
    assert [len(each) for each in alone] == tokens
    assert (torch.cat(alone) - found).abs().max() < 1e-5
    (torch.cat(alone) * target).sum().backward()
    assert (x.grad - whole).abs().max() < 1e-4
    for mine, parameter in zip(together, module.parameters(), strict=True):
        assert (mine - parameter.grad).abs().max() < 1e-5 * max(1.0, float(mine.abs().max()))
    changed = x.detach().clone()
    changed[: LENGTHS[0]] += 1.0
    after = module(Patches(rows=changed, lengths=LENGTHS, grids=GRIDS))
    assert torch.equal(after[tokens[0] :], found[tokens[0] :])
    assert not torch.equal(after[: tokens[0]], found[: tokens[0]])
    x.grad = None
    module(Patches(rows=x, lengths=LENGTHS, grids=GRIDS))[: tokens[0]].sum().backward()
    assert x.grad[: LENGTHS[0]].any()
    assert not x.grad[LENGTHS[0] :].any()


def test_every_kind_is_tried_and_reads_back() -> None:
    assert {told["kind"] for told in KINDS} == set(CONNECTORS)
    for told in KINDS:
        spec = read(told)
        assert read(spec.model_dump()) == spec
    assert read("mlp") == read({"kind": "mlp"})
    for wrong in ({"kind": "c_abstractor", "tokens": 8}, {"kind": "qformer", "hidden": 16, "heads": 3}):
        with pytest.raises(ValidationError):
            read(wrong)


def copied(mine: nn.Module, theirs: nn.Module, names: dict[str, str]) -> None:
    """Give ours the weights of theirs, by the name that each of ours has there."""
    state = theirs.state_dict()
    mine.load_state_dict({name: state[other] for name, other in names.items()})


SQUARES = Patches(rows=row()[: 2 * 16], lengths=(16, 16), grids=((4, 4), (4, 4)))
"""Two pictures of 4 x 4 patches in raster order."""


def blocks() -> Patches:
    rows = in_blocks(SQUARES.rows.view(2, 16, WIDTH), 4, 2)
    return Patches(rows=rows, lengths=SQUARES.lengths, grids=SQUARES.grids)


def tower(width: int = WIDTH, **more: Any) -> Any:
    return hf.SiglipVisionConfig(hidden_size=width, intermediate_size=16, num_attention_heads=2, **more)


def language(width: int = OUT) -> Any:
    return hf.LlamaConfig(hidden_size=width, intermediate_size=16, num_attention_heads=2, vocab_size=9)


def random(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.eval()


@torch.no_grad()
def test_mlp_is_llavas_projector() -> None:
    _, mine, _ = made({"kind": "mlp", "norm": False}, merge=1)
    theirs = random(LlavaMultiModalProjector(hf.LlavaConfig(vision_config=tower(), text_config=language())))
    copied(mine, theirs, {f"{a}.{k}": f"{b}.{k}" for a, b in TWO for k in ("weight", "bias")})
    assert (mine(SQUARES) - theirs(SQUARES.rows)).abs().max() < 1e-5


TWO = (("up", "linear_1"), ("down", "linear_2"))


@torch.no_grad()
def test_pixel_shuffle_is_idefics3s_and_internvls() -> None:
    whole = SQUARES.rows.view(2, 16, WIDTH)
    _, mine, _ = made({"kind": "pixel_shuffle", "projection": "linear"})
    told = hf.Idefics3Config(vision_config={"hidden_size": WIDTH}, text_config=language(), scale_factor=2)
    idefics = random(Idefics3Connector(told))
    copied(mine, idefics, {"proj.weight": "modality_projection.proj.weight"})
    assert (mine(blocks()) - idefics(whole).flatten(0, 1)).abs().max() < 1e-5
    _, mine, _ = made({"kind": "pixel_shuffle"})
    config = hf.InternVLConfig(vision_config={"hidden_size": WIDTH}, text_config=language(), downsample_ratio=0.5)
    intern = random(InternVLMultiModalProjector(config))
    names = {"proj.0": "layer_norm", "proj.1": "linear_1", "proj.3": "linear_2"}
    copied(mine, intern, {f"{a}.{k}": f"{b}.{k}" for a, b in names.items() for k in ("weight", "bias")})
    shuffled = InternVLModel.pixel_shuffle(None, whole.view(2, 4, 4, WIDTH), 0.5)
    assert (mine(blocks()) - intern(shuffled.reshape(-1, 4 * WIDTH))).abs().max() < 1e-5


@torch.no_grad()
def test_patch_merger_is_qwen2_vls() -> None:
    _, mine, _ = made({"kind": "patch_merger"})
    theirs = random(PatchMerger(OUT, WIDTH, 2))
    names = {"norm": "ln_q", "up": "mlp.0", "down": "mlp.2"}
    copied(mine, theirs, {f"{a}.{k}": f"{b}.{k}" for a, b in names.items() for k in ("weight", "bias")})
    assert (mine(blocks()) - theirs(blocks().rows)).abs().max() < 1e-5


@torch.no_grad()
def test_perceiver_is_idefics() -> None:
    """Pictures of several lengths in a row, each as IDEFICS resamples it alone."""
    _, mine, _ = made({"kind": "perceiver", "tokens": 5, "layers": 2, "heads": 2, "head_width": 6})
    config = hf.IdeficsConfig(vision_config={"embed_dim": WIDTH})
    theirs: Any = random(IdeficsPerceiverResampler(config, WIDTH, 2, 2, 6, 5))
    names = {"latents": "latents", "norm.weight": "layer_norm.weight", "norm.bias": "layer_norm.bias"}
    inside = {"attention.q": "0.q_proj", "attention.k": "0.k_proj", "attention.v": "0.v_proj"}
    inside |= {"attention.out": "0.output_proj", "mlp.up": "1.fc", "mlp.down": "1.c_proj"}
    norms = {"attention_norm": "0.latents_layer_norm", "context_norm": "0.context_layer_norm", "mlp_norm": "1.ln"}
    for at in range(2):
        names |= {f"layers.{at}.{ours}.weight": f"blocks.{at}.{other}.weight" for ours, other in inside.items()}
        for ours, other in norms.items():
            names |= {f"layers.{at}.{ours}.{k}": f"blocks.{at}.{other}.{k}" for k in ("weight", "bias")}
    state = {name: theirs.state_dict()[other] for name, other in names.items()}
    assert set(theirs.state_dict()) == set(names.values())
    assert mine.load_state_dict(state, strict=False).missing_keys == ["out.weight", "out.bias"]
    found = mine(Patches(rows=row(), lengths=LENGTHS))
    expected = torch.cat([mine.out(theirs(picture[None])[0]) for picture in row().split(LENGTHS)])
    assert (found - expected).abs().max() < 1e-5


@torch.no_grad()
def test_cross_attention_is_the_formula_of_qwen_vl() -> None:
    """With torch's own attention module: positions in queries and keys, not in values."""
    _, mine, _ = made({"kind": "cross_attention", "tokens": 4, "heads": 2})
    attention: Any = mine.attention
    theirs = nn.MultiheadAttention(OUT, 2)
    theirs.in_proj_weight.copy_(torch.cat([attention.q.weight, attention.k.weight, attention.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([attention.q.bias, attention.k.bias, attention.v.bias]))
    theirs.out_proj.load_state_dict(attention.out.state_dict())
    table = torch.from_numpy(sincos_2d(2, 2, OUT, variant="mae"))
    expected = []
    for picture, grid in zip(row().split(LENGTHS), GRIDS, strict=True):
        x = mine.norm(mine.inward(picture))
        places = resize_table(table.view(2, 2, OUT), *grid, variant="clip")
        seen, _ = theirs(mine.query_norm(mine.queries) + table, x + places, x)
        expected.append(mine.out(mine.out_norm(seen)))
    found = mine(Patches(rows=row(), lengths=LENGTHS, grids=GRIDS))
    assert (found - torch.cat(expected)).abs().max() < 1e-5


@torch.no_grad()
def test_pooling_is_the_mean_of_each_bin() -> None:
    """Bin i of n over r rows begins at floor(i r / n) and ends at ceil((i + 1) r / n)."""
    _, mine, _ = made({"kind": "adaptive_pool", "tokens": 9})
    means = []
    for picture, (rows, columns) in zip(row().split(LENGTHS), GRIDS, strict=True):
        grid = picture.view(rows, columns, WIDTH)
        for i in range(3):
            for j in range(3):
                down = slice(i * rows // 3, math.ceil((i + 1) * rows / 3))
                along = slice(j * columns // 3, math.ceil((j + 1) * columns / 3))
                means.append(grid[down, along].mean((0, 1)))
    expected = mine.down(F.gelu(mine.up(torch.stack(means))))
    assert (mine(Patches(rows=row(), lengths=LENGTHS, grids=GRIDS)) - expected).abs().max() < 1e-5


@torch.no_grad()
def test_hierarchical_pool_pools_regions_and_then_pictures() -> None:
    """With torch's own attention modules: region (a, b) has the patches (i, j) with a = 3 i // rows and
    b = 3 j // columns; those without any are not seen."""
    _, mine, _ = made({"kind": "hierarchical_pool", "tokens": 3, "regions": 9, "heads": 2})
    attend = []
    for inner in (mine.attention, mine.region_attention):
        theirs = nn.MultiheadAttention(WIDTH, 2)
        theirs.in_proj_weight.copy_(torch.cat([inner.q.weight, inner.k.weight, inner.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([inner.q.bias, inner.k.bias, inner.v.bias]))
        theirs.out_proj.load_state_dict(inner.out.state_dict())
        attend.append(theirs)
    expected = []
    for picture, (rows, columns) in zip(row().split(LENGTHS), GRIDS, strict=True):
        grid = mine.norm(picture).view(rows, columns, WIDTH)
        cells: dict[tuple[int, int], list[torch.Tensor]] = {}
        for i in range(rows):
            for j in range(columns):
                cells.setdefault((3 * i // rows, 3 * j // columns), []).append(grid[i, j])
        regions = [attend[0](mine.query, x, x)[0][0] for x in (torch.stack(cells[at]) for at in sorted(cells))]
        seen = mine.region_norm(torch.stack(regions))
        expected.append(mine.out(attend[1](mine.queries, seen, seen)[0]))
    found = mine(Patches(rows=row(), lengths=LENGTHS, grids=GRIDS))
    assert (found - torch.cat(expected)).abs().max() < 1e-5


@torch.no_grad()
def test_c_abstractor_is_honeybees_formula() -> None:
    """Bottleneck by bottleneck with sums over neighbours written out, on one picture."""
    _, mine, _ = made({"kind": "c_abstractor", "tokens": 4, "hidden": 8, "depth": 2})

    def norm(x: torch.Tensor, module: Any) -> torch.Tensor:  # [H, W, C]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * module.weight + module.bias

    def block(x: torch.Tensor, b: Any) -> torch.Tensor:
        inner = F.silu(norm(x @ b.conv1.weight[:, :, 0, 0].T, b.norm1))
        height, width, _ = inner.shape
        padded = F.pad(inner, (0, 0, 1, 1, 1, 1))
        kernel = b.conv2.weight[:, 0]  # each channel by itself
        around = sum(padded[i : i + height, j : j + width] * kernel[:, i, j] for i in range(3) for j in range(3))
        inner = F.silu(norm(around, b.norm2))
        squeezed = F.silu(b.squeeze.weight[:, :, 0, 0] @ inner.mean((0, 1)) + b.squeeze.bias)
        inner = inner * (b.excite.weight[:, :, 0, 0] @ squeezed + b.excite.bias).sigmoid()
        inner = norm(inner @ b.conv3.weight[:, :, 0, 0].T, b.norm3)
        beside = x
        if x.shape[-1] != inner.shape[-1]:
            beside = norm(x @ b.shortcut[0].weight[:, :, 0, 0].T, b.shortcut[1])
        return F.silu(inner + beside)

    x = row()[:16].view(4, 4, WIDTH)
    for stage in mine.before:
        x = block(x, stage)
    x = x.view(2, 2, 2, 2, -1).mean((1, 3))
    for stage in mine.behind:
        x = block(x, stage)
    expected = mine.down(F.silu(mine.up(x.flatten(0, 1))))
    found = mine(Patches(rows=row()[:16], lengths=(16,), grids=((4, 4),)))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_clusters_are_weighted_means_and_say_what_is_lost() -> None:
    spec, mine, _ = made({"kind": "clusters", "tokens": 4, "reconstruction": 0.25})
    assert auxiliary.declared(mine)["reconstruction"].weight == spec.reconstruction
    x = row().requires_grad_()
    with auxiliary.recording() as found:
        tokens = mine(Patches(rows=x, lengths=LENGTHS))
    (errors,) = found["reconstruction"]
    for number, picture in enumerate(x.split(LENGTHS)):
        belongs = mine.centres(mine.norm(picture)).softmax(-1)
        means = torch.stack([(belongs[:, [k]] * picture).sum(0) / belongs[:, k].sum() for k in range(4)])
        lost = torch.stack(
            [(sum(b[k] * means[k] for k in range(4)) - p) for p, b in zip(picture, belongs, strict=True)]
        )
        assert abs(float(errors[number] - lost.square().mean())) < 1e-4
        assert (tokens[4 * number :][:4] - mine.down(F.gelu(mine.up(means)))).abs().max() < 1e-4
    errors[0].backward()  # its gradient reaches the picture, by what its tokens say of it, and no other
    assert x.grad is not None
    assert x.grad[: LENGTHS[0]].any()
    assert not x.grad[LENGTHS[0] :].any()
    assert mine.centres.weight.grad.any()


def tome_round(x: list[torch.Tensor], sizes: list[int], r: int) -> tuple[list[torch.Tensor], list[int], list[int]]:
    """One round of ToMe (arXiv 2210.09461, §3) in plain loops: rows, their sizes, and where each old row went."""
    likeness = lambda a, b: float(F.cosine_similarity(x[a], x[b], dim=0))  # noqa: E731
    odd = range(1, len(x), 2)
    edges = [(a, max(odd, key=lambda b: likeness(a, b))) for a in range(0, len(x), 2)]
    edges.sort(key=lambda edge: -likeness(*edge))
    into = list(range(len(x)))
    for a, b in edges[:r]:
        into[a] = b
    groups = [[a for a in range(len(x)) if into[a] == b] for b in dict.fromkeys(into)]
    total = [sum(sizes[a] for a in group) for group in groups]
    merged = [sum(x[a] * sizes[a] for a in group) / n for group, n in zip(groups, total, strict=True)]
    where = [next(at for at, group in enumerate(groups) if a in group) for a in range(len(x))]
    return merged, total, where


@pytest.mark.parametrize(("length", "tokens"), [(16, 5), (9, 8), (7, 2), (5, 5), (3, 9), (12, 1)])
def test_bipartite_merging_is_tomes(length: int, tokens: int) -> None:
    rows = torch.randn(3, length, WIDTH, generator=torch.Generator().manual_seed(length))
    groups = bipartite(rows, tokens)
    for picture, found in zip(rows, groups, strict=True):
        x, sizes, where = list(picture), [1] * length, list(range(length))
        while len(x) > tokens:
            x, sizes, moved = tome_round(x, sizes, min(len(x) - tokens, len(x) // 2))
            where = [moved[at] for at in where]
        assert found.tolist() == where
        assert (averaged(picture[None], found[None])[0] - torch.stack(x)).abs().max() < 1e-5


def test_greedy_merging_takes_the_nearest_two_again_and_again() -> None:
    rows = torch.randn(2, 9, WIDTH, generator=torch.Generator().manual_seed(3))
    groups = greedy(rows, 4)
    for picture, found in zip(rows, groups, strict=True):
        sets = [[at] for at in range(9)]
        while len(sets) > 4:
            mean = [picture[mine].mean(0) for mine in sets]
            pairs = [(a, b) for a in range(len(sets)) for b in range(a + 1, len(sets))]
            a, b = max(pairs, key=lambda pair: float(F.cosine_similarity(mean[pair[0]], mean[pair[1]], dim=0)))
            sets[a] += sets.pop(b)
        sets.sort(key=min)
        assert found.tolist() == [next(n for n, mine in enumerate(sets) if at in mine) for at in range(9)]
