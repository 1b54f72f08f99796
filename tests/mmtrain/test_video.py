"""Frames that see each other: equal to transformers' TimeSformer and VideoMAE with their weights, to dense code, packed
and alone; and what is left of a video is what was planned."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mmdata.errors import SpecError
from mmdata.types import MediaPlan
from mmtrain.models import video
from mmtrain.models.connectors.patches import Patches, in_blocks
from mmtrain.models.video.attending import Attending, AttendingSpec, orders_of
from mmtrain.models.video.hierarchical import Hierarchical, HierarchicalSpec, footage_of
from mmtrain.models.video.planned import frame_times
from mmtrain.models.video.times import coded

WIDTH, HEADS = 16, 4
KINDS: dict[str, dict[str, Any]] = {
    "frames": {"kind": "frames"},
    "divided": {"kind": "divided"},
    "divided_token": {"kind": "divided", "video_token": "beside"},
    "divided_alone": {"kind": "divided", "video_token": "alone"},
    "joint": {"kind": "joint"},
    "joint_token": {"kind": "joint", "video_token": "beside", "reduce": {"kind": "conv"}},
    "axial": {"kind": "axial", "times": "frames"},
    "local": {"kind": "local", "window": 1, "reduce": {"kind": "conv", "kernel": 5, "stride": 3}},
    "merge": {"kind": "divided", "reduce": {"kind": "merge", "tokens": 7}},
    "hierarchical": {"kind": "hierarchical", "clip": 2, "tokens": 3, "layers": 1},
}


def footage(
    frames: tuple[int, ...], grids: tuple[tuple[int, int], ...], seed: int = 0, fps: float = 2
) -> video.Footage:
    draw = torch.Generator().manual_seed(seed)
    shapes = [grid for count, grid in zip(frames, grids, strict=True) for _ in range(count)]
    lengths = tuple(rows * columns for rows, columns in shapes)
    rows = torch.randn(sum(lengths), WIDTH, generator=draw)
    seconds = torch.cat([torch.arange(count) / fps for count in frames])
    patches = Patches(rows=rows, lengths=lengths, grids=tuple(shapes))
    return video.Footage(patches=patches, frames=frames, seconds=seconds)


def made(told: dict[str, Any], merge: int = 1, seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return video.make(video.read({"heads": HEADS, **told}), WIDTH, merge).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_packed_videos_are_what_they_are_alone(kind: str) -> None:
    """And each is left with as many pictures of as many vectors as was planned."""
    module = made(KINDS[kind])
    frames, grids = (3, 1, 5), ((2, 3), (1, 2), (3, 2))
    whole = footage(frames, grids)
    rows, lengths = module(whole)
    alone, counts, at, first = [], list[int](), 0, 0
    for count, grid in zip(frames, grids, strict=True):
        size = count * grid[0] * grid[1]
        one = footage_of(
            whole.patches.rows[at : at + size], grid[0] * grid[1], grid, whole.seconds[first : first + count]
        )
        found, each = module(one)
        assert list(each) == video.lengths_of(module.spec, count, grid[0] * grid[1])
        alone.append(found)
        counts += each
        at, first = at + size, first + count
    assert tuple(counts) == lengths
    assert sum(counts) == len(rows)
    assert torch.allclose(rows, torch.cat(alone), atol=1e-5)


def copied(mine: nn.Module, theirs: nn.Module, more: nn.Linear | None = None) -> None:
    """TimeSformer's attention into ours; its second map `more` is one product with the first."""
    qkv, dense = theirs.attention.qkv, theirs.output.dense
    mine.qkv.load_state_dict(qkv.state_dict())
    weight, bias = dense.weight, dense.bias
    if more is not None:
        weight, bias = more.weight @ weight, more.weight @ bias + more.bias
    mine.out.load_state_dict({"weight": weight, "bias": bias})


def rest_copied(mine: Any, theirs: Any) -> None:
    mine.mlp_norm.load_state_dict(theirs.layernorm_after.state_dict())
    mine.mlp.up.load_state_dict(theirs.intermediate.dense.state_dict())
    mine.mlp.down.load_state_dict(theirs.output.dense.state_dict())


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time"])
@torch.no_grad()
def test_it_is_timesformer(kind: str) -> None:
    """The encoder of transformers' TimesformerModel, its class token as our video token, with its weights."""
    frames, side = 3, 2
    config = hf.TimesformerConfig(
        image_size=4 * side,
        patch_size=4,
        num_frames=frames,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        layer_norm_eps=1e-5,
        attention_type=kind,
        qkv_bias=True,
    )
    torch.manual_seed(0)
    theirs = hf.TimesformerModel(config).eval()
    for parameter in theirs.parameters():  # biases and norms too
        parameter.normal_(std=0.2)
    module = made({"kind": kind.split("_")[0], "times": "none", "video_token": "beside"})
    for mine, layer in zip(module.layers, theirs.encoder.layer, strict=True):
        parts = [(layer.layernorm_before, layer.attention, None)]
        if kind.startswith("divided"):
            parts.insert(0, (layer.temporal_layernorm, layer.temporal_attention, layer.temporal_dense))
        for at, (norm, attention, more) in enumerate(parts):
            mine.norms[at].load_state_dict(norm.state_dict())
            copied(mine.attentions[at], attention, more)
        rest_copied(mine, layer)
    module.norm.load_state_dict(theirs.layernorm.state_dict())
    hidden = torch.randn(1, 1 + side * side * frames, WIDTH)
    module.video_token.copy_(hidden[0, :1])
    wanted = theirs.layernorm(theirs.encoder(hidden).last_hidden_state)[0]
    # Theirs has the places one after the other, each through time, ours the frames.
    rows = hidden[0, 1:].view(side * side, frames, WIDTH).transpose(0, 1).flatten(0, 1)
    found, lengths = module(footage_of(rows, side * side, (side, side), torch.arange(frames).float()))
    assert lengths == (1, *[side * side] * frames)
    theirs_patches = wanted[1:].view(side * side, frames, WIDTH).transpose(0, 1).flatten(0, 1)
    assert torch.allclose(found, torch.cat([wanted[:1], theirs_patches]), atol=2e-5)
    assert not torch.allclose(found[1:], rows, atol=0.1)


@torch.no_grad()
def test_joint_attention_is_videomaes() -> None:
    """The encoder of transformers' VideoMAEModel, with its weights."""
    config = hf.VideoMAEConfig(
        image_size=8,
        patch_size=4,
        num_frames=6,
        tubelet_size=2,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        layer_norm_eps=1e-5,
        use_mean_pooling=False,
    )
    torch.manual_seed(0)
    theirs = hf.VideoMAEModel(config).eval()
    for name, parameter in theirs.named_parameters():
        if "key.bias" not in name:
            parameter.normal_(std=0.2)
    pixels = torch.randn(1, 6, 3, 8, 8)
    masked = torch.zeros(1, 12, dtype=torch.bool)
    inward: list[torch.Tensor] = []
    hook = theirs.encoder.register_forward_pre_hook(
        lambda _, a, k: inward.append(a[0] if a else k["hidden_states"]), with_kwargs=True
    )
    wanted = theirs(pixels, bool_masked_pos=masked).last_hidden_state[0]
    hook.remove()
    module = made({"kind": "joint", "times": "none"})
    for mine, layer in zip(module.layers, theirs.encoder.layer, strict=True):
        state = {name.split("attention.attention.")[-1]: value for name, value in layer.state_dict().items()}
        weights = [state[f"{name}.weight"] for name in ("query", "key", "value")]
        zeros = torch.zeros(WIDTH)
        own = layer.attention.attention
        biases = [
            own.q_bias if hasattr(own, "q_bias") else own.query.bias,
            zeros if getattr(getattr(own, "key", None), "bias", None) is None else own.key.bias,
            own.v_bias if hasattr(own, "v_bias") else own.value.bias,
        ]
        mine.norms[0].load_state_dict(layer.layernorm_before.state_dict())
        mine.attentions[0].qkv.load_state_dict({"weight": torch.cat(weights), "bias": torch.cat(biases)})
        mine.attentions[0].out.load_state_dict(layer.attention.output.dense.state_dict())
        rest_copied(mine, layer)
    module.norm.load_state_dict(theirs.layernorm.state_dict())
    found, _ = module(footage_of(inward[0][0], 4, (2, 2), torch.arange(3).float()))
    assert torch.allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("kind", ["axial", "local"])
@pytest.mark.parametrize("merge", [1, 2])
@torch.no_grad()
def test_axes_and_windows_are_dense_masks(kind: str, merge: int) -> None:
    """One layer against plain attention over all pairs, those left out that it does not look at."""
    frames, grid = 5, (4, 2)
    module = made({"kind": kind, "layers": 1, "window": 2, "times": "none"}, merge)
    layer = module.layers[0]
    raster = torch.randn(frames, grid[0] * grid[1], WIDTH)
    t, r, c = (x.flatten() for x in torch.meshgrid(*(torch.arange(n) for n in (frames, *grid)), indexing="ij"))

    def same(x: torch.Tensor) -> torch.Tensor:
        return x[:, None] == x[None, :]

    place, frame = same(r) & same(c), same(t)
    masks = [place, frame & same(c), frame & same(r)]
    if kind == "local":
        masks = [place & ((t[:, None] - t[None, :]).abs() <= 2), frame]
    x = raster.flatten(0, 1)
    for norm, attention, mask in zip(layer.norms, layer.attentions, masks, strict=True):
        q, k, v = attention.qkv(norm(x)).view(len(x), 3, HEADS, -1).permute(1, 2, 0, 3)
        seen = nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask)[0]
        x = x + attention.out(seen.transpose(0, 1).flatten(1))
    wanted = module.norm(x + layer.mlp(layer.mlp_norm(x))).view(frames, -1, WIDTH)
    given_rows = in_blocks(raster, grid[0], merge)
    found, _ = module(footage_of(given_rows, grid[0] * grid[1], grid, torch.arange(frames).float()))
    assert torch.allclose(found, in_blocks(wanted, grid[0], merge), atol=1e-5)


@given(rate=st.sampled_from([1, 2, 4, 5]), frames=st.integers(2, 6))
@settings(max_examples=10, deadline=None)
def test_other_frame_rates_mean_the_same_times(rate: int, frames: int) -> None:
    """What is added to a frame goes by when it is shown: every `rate`-th frame of a faster video is a slower one's."""
    slow = torch.arange(frames).float()
    fast = torch.arange((frames - 1) * rate + 1) / rate
    codes = [
        coded(
            footage_of(torch.zeros(len(each), WIDTH), 1, (1, 1), each).elapsed,
            (len(each),),
            (1,) * len(each),
            WIDTH,
            by="seconds",
            rate=3.0,
        )
        for each in (slow + 7, fast)
    ]
    assert torch.allclose(codes[0], codes[1][::rate], atol=1e-5)
    numbers = coded(fast, (len(fast),), (1,) * len(fast), WIDTH, by="frames", rate=3.0)
    assert torch.equal(numbers, coded(fast * 9, (len(fast),), (1,) * len(fast), WIDTH, by="frames", rate=1.0))


@torch.no_grad()
def test_a_convolution_through_time_is_a_sum_over_frames() -> None:
    module = made({"kind": "frames", "times": "none", "reduce": {"kind": "conv", "kernel": 3, "stride": 2}})
    frames, places = 5, 2
    x = torch.randn(frames, places, WIDTH)
    found, _ = module(footage_of(x.flatten(0, 1), places, (1, 2), torch.arange(frames).float()))
    weight, bias = module.reduce.conv.weight, module.reduce.conv.bias
    for at, middle in enumerate(range(0, frames, 2)):
        near = [(n, x[middle + n - 1]) for n in range(3) if 0 <= middle + n - 1 < frames]
        through = bias + sum(frame @ weight[:, :, n].T for n, frame in near)
        wanted = x[middle] + nn.functional.gelu(through)
        assert torch.allclose(found.view(-1, places, WIDTH)[at], wanted, atol=1e-5)


@torch.no_grad()
def test_clips_do_not_see_each_other_before_the_aggregator() -> None:
    module = made({"kind": "hierarchical", "clip": 2, "tokens": 2, "layers": 1})
    assert isinstance(module, Hierarchical)
    one = footage((6,), ((2, 2),))
    rows, begins = module.clips(one)
    assert begins.tolist() == [0, 1, 2]
    changed = one.patches.rows.clone()
    changed[8:16] = torch.randn(8, WIDTH)  # the second clip
    other, _ = module.clips(one.with_rows(changed))
    assert torch.equal(rows[:2], other[:2])
    assert torch.equal(rows[4:], other[4:])
    assert not torch.allclose(rows[2:4], other[2:4])
    before, after = (module.aggregated(x, begins, [3]) for x in (rows, other))
    assert not torch.allclose(before[:2], after[:2])


def test_costs_are_as_stated() -> None:
    """Pairs that a layer compares, counted in its own orders."""
    t, s, r, c = 4, 6, 2, 3
    one = footage((t,), ((r, c),))
    costs = {
        "frames": 0,
        "divided": s * t**2 + t * s**2,
        "joint": (t * s) ** 2,
        "axial": s * t**2 + t * (c * r**2 + r * c**2),
    }
    for kind, wanted in costs.items():
        orders = orders_of(AttendingSpec(kind=kind), one, 1)
        assert sum(length**2 for order in orders for length in order.borders.lengths) == wanted, kind


@pytest.mark.parametrize(
    ("told", "merge", "message"),
    [
        ({"kind": "divided", "heads": 3}, 1, "3 heads do not divide"),
        ({"kind": "divided", "video_token": "alone"}, 2, "set model.vision.merge: 1"),
        ({"kind": "hierarchical", "inside": {"kind": "joint", "video_token": "beside"}}, 1, "neither video_token"),
        ({"kind": "frames", "reduce": {"kind": "conv", "kernel": 2}}, 1, "an odd one"),
        ({"kind": "hierarchical"}, 1, "adaptive_pool wants grids"),
    ],
)
def test_what_does_not_fit_is_refused(told: dict[str, Any], merge: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        video.check(video.read(told), "adaptive_pool", WIDTH, merge, dropping=False)


def test_times_of_a_plan() -> None:
    """Milliseconds from the first frame; an image is shown at 0, and without a rate frames are a second apart."""
    plan = MediaPlan(kind="video", tokens=3, shape=(3, 768), ops=(), grid=(3, 1, 1), times=(0.5, 1.0, 2.25))
    assert {name: each.tolist() for name, each in frame_times(plan).items()} == {
        "frame_counts": [3],
        "frame_ms": [0, 500, 1750],
    }
    bare = MediaPlan(kind="video", tokens=2, shape=(2, 768), ops=(), grid=(2, 1, 1))
    assert frame_times(bare)["frame_ms"].tolist() == [0, 1000]
    image = MediaPlan(kind="image", tokens=4, shape=(4, 768), ops=(), grid=(1, 2, 2))
    assert frame_times(image)["frame_ms"].tolist() == [0]


def test_gradients_reach_all_weights() -> None:
    for kind in ("divided_token", "axial", "hierarchical", "joint_token"):
        module = made(KINDS[kind])
        rows, _ = module(footage((3, 2), ((2, 2), (1, 3))))
        (rows.square() * torch.randn_like(rows)).sum().backward()
        idle = [name for name, each in module.named_parameters() if each.grad is None or not each.grad.any()]
        assert not idle, (kind, idle)


def test_specs_are_read_back() -> None:
    for told in KINDS.values():
        spec = video.read(told)
        assert video.read(spec.model_dump()) == spec
    assert isinstance(video.read({"kind": "hierarchical"}), HierarchicalSpec)
    assert isinstance(made({"kind": "local"}), Attending)
    assert list(itertools.chain(AttendingSpec(kind="local", window=3, layers=2).lengths(2, 5))) == [5, 5]
