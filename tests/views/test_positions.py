"""Position encodings are those of the installed models, and of the originals where these differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3VisionConfig,
    PixtralVisionConfig,
    Qwen2Config,
    vision_utils,
)
from transformers.models.clip.modeling_clip import CLIPVisionEmbeddings
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionEmbeddings
from transformers.models.pixtral.modeling_pixtral import PixtralVisionRotaryEmbedding, apply_rotary_pos_emb
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding
from transformers.models.siglip2.modeling_siglip2 import Siglip2VisionEmbeddings
from transformers.models.vit_mae.modeling_vit_mae import build_2d_sinusoidal_position_embedding

from mmdata.errors import SpecError
from mmdata.views import positions
from tests.views import tiny_models

GRIDS = [(1, 1), (1, 9), (14, 14), (7, 20), (33, 12), (64, 40)]


def mae_original(rows, columns, width):
    """facebookresearch/mae util/pos_embed.py for grids of any shape: the first half of a code is the column's."""
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    omega = 1 / 10_000 ** (np.arange(width // 4) / (width // 4))
    x, y = np.outer(x, omega), np.outer(y, omega)
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def big_vision(rows, columns, width):
    """big_vision models/vit.py posemb_sincos_2d."""
    y, x = np.mgrid[:rows, :columns].reshape(2, -1)
    omega = 1.0 / 10_000 ** (np.arange(width // 4) / (width // 4 - 1))
    x, y = x[:, None] * omega, y[:, None] * omega
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


@pytest.mark.parametrize("grid", GRIDS)
def test_sines_and_cosines(grid):
    for width in (16, 64, 768):
        assert np.abs(positions.sincos_2d(*grid, width, variant="mae") - mae_original(*grid, width)).max() <= 1e-6
        ours = positions.sincos_2d(*grid, width, variant="big_vision")
        assert np.abs(ours - big_vision(*grid, width)).max() <= 1e-6
        theirs = build_2d_sinusoidal_position_embedding(*grid, width)
        ours = positions.sincos_2d(*grid, width, variant="transformers")
        assert np.abs(ours - theirs.numpy()).max() <= 1e-6
    if grid[0] > 1:
        conventions = [positions.sincos_2d(*grid, 64, variant=name) for name in ("mae", "big_vision", "transformers")]
        assert min(np.abs(conventions[i] - conventions[i - 1]).max() for i in range(3)) > 0.1


def test_codes_follow_time_not_the_number_of_samples():
    slow, fast = np.arange(8) / 2, np.arange(32) / 8  # the same four seconds at 2 and at 8 frames a second
    codes = positions.temporal_sincos(fast, 64, rate=2)
    assert np.array_equal(codes[::4], positions.temporal_sincos(slow, 64, rate=2))
    assert np.array_equal(positions.temporal_sincos(slow, 64, rate=2), positions.sincos_1d(range(8), 64))
    assert not np.array_equal(codes[:8], positions.sincos_1d(range(8), 64))


@pytest.mark.parametrize("grid", GRIDS)
def test_tables_as_clip_resizes_them(grid):
    torch.manual_seed(1)
    embeddings = CLIPVisionEmbeddings(CLIPVisionConfig(hidden_size=24, image_size=112, patch_size=8))
    table = embeddings.position_embedding.weight[1:].view(14, 14, 24)
    with torch.no_grad():
        torch.nn.init.normal_(embeddings.position_embedding.weight)
        patches = torch.zeros(1, 1 + grid[0] * grid[1], 24)
        theirs = embeddings.interpolate_pos_encoding(patches, 8 * grid[0], 8 * grid[1])[0, 1:]
        ours = positions.resize_table(table, *grid, variant="clip")
    assert float((ours - theirs).abs().max()) <= 1e-6


def test_tables_as_siglip2_resizes_them():
    torch.manual_seed(2)
    table = torch.randn(16, 16, 24)
    shapes = torch.tensor([(1, 1), (1, 256), (14, 18), (16, 16), (3, 7)])
    theirs = Siglip2VisionEmbeddings.resize_positional_embeddings(table, shapes, 256)
    for (rows, columns), expected in zip(shapes.tolist(), theirs, strict=True):
        ours = positions.resize_table(table, rows, columns, variant="naflex")
        assert float((ours - expected[: rows * columns]).abs().max()) <= 1e-6
        assert torch.equal(expected[rows * columns :], expected[:1].expand(256 - rows * columns, -1))


@pytest.mark.parametrize("grid", [(2, 2), (2, 18), (14, 14), (6, 20), (48, 48), (64, 40), (128, 2)])
def test_tables_as_qwen3_resizes_them(grid):
    torch.manual_seed(3)
    table = torch.randn(48, 48, 24)
    indices, weights = vision_utils.get_vision_interpolation_indices_and_weights(
        torch.tensor([[1, *grid]]), 48, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    theirs = (table.view(-1, 24)[indices] * weights[:, :, None]).sum(1)
    ours = positions.resize_table(table, *grid, variant="qwen3", merge=2)
    assert float((ours - theirs).abs().max()) <= 1e-6


def test_the_names_of_tables_matter():
    table = torch.randn(16, 16, 8)
    made = [positions.resize_table(table, 9, 11, variant=name) for name in ("clip", "naflex", "qwen3")]
    assert min(float((made[i] - made[i - 1]).abs().max()) for i in range(3)) > 0.1
    half = positions.resize_table(table.bfloat16(), 9, 11, variant="naflex")
    assert half.dtype == torch.bfloat16


def test_rotary_angles_of_text():
    config = Qwen2Config(hidden_size=64, num_attention_heads=2, rope_theta=10_000.0)
    at = torch.tensor([0, 1, 7, 1000, 40_000])
    theirs = Qwen2RotaryEmbedding(config)(torch.zeros(1), at[None])
    theta = config.rope_parameters["rope_theta"]
    for ours, expected in zip(positions.rope_1d(at, 32, theta=theta), theirs, strict=True):
        assert float((ours - expected[0]).abs().max()) <= 1e-6


@pytest.mark.parametrize("variant", ["qwen", "pixtral"])
def test_rotary_angles_of_patches(variant):
    at = torch.from_numpy(positions.patch_coordinates((1, 30, 44), 2 if variant == "qwen" else 1))
    if variant == "qwen":
        model = tiny_models.qwen2_vl().visual
        theirs = model.rotary_pos_emb(torch.zeros(1), at)
        third = tiny_models.qwen3_vl().visual.rotary_pos_emb(torch.zeros(1), at)
        assert torch.equal(theirs[0], third[0])
    else:
        config = PixtralVisionConfig(hidden_size=32, num_attention_heads=2)
        theirs = PixtralVisionRotaryEmbedding(config)(torch.zeros(1), at)
    ours = positions.rope_2d(at, 16, variant=variant)
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine.shape == expected.shape == (30 * 44, 16)
        assert float((mine - expected).abs().max()) <= 1e-6
    q, k = torch.randn(2, 3, 30 * 44, 16)
    expected = apply_rotary_pos_emb(q[None], k[None], *ours, unsqueeze_dim=0)
    assert torch.equal(positions.rotate(q, *ours), expected[0][0])
    assert torch.equal(positions.rotate(k, *ours), expected[1][0])


@pytest.mark.parametrize("grids", [[(1, 2, 2)], [(1, 8, 8), (3, 16, 10)], [(2, 4, 12), (1, 30, 44), (1, 2, 18)]])
def test_patches_and_windows_of_qwen(grids):
    thw = torch.tensor(grids)
    coordinates = np.concatenate([positions.patch_coordinates(grid, 2) for grid in grids])
    assert np.array_equal(coordinates, vision_utils.get_vision_position_ids(thw, 2))
    borders = positions.frame_cu_seqlens(grids)
    assert borders.dtype == np.int32
    assert np.array_equal(borders, vision_utils.get_vision_cu_seqlens(thw))
    for window in (56, 112):
        order, windows = positions.window_index(grids, window=window)
        expected = vision_utils.get_vision_window_index(thw, 2, window, 14)
        assert np.array_equal(order, expected[0])
        assert np.array_equal(windows, expected[1])
        assert windows.dtype == np.int32


def test_buckets():
    draw = np.random.default_rng(0)
    differing = 0
    for side in (14, 32, 70):
        sizes = [(int(rows), int(columns)) for rows, columns in draw.integers(1, 100, (60, 2))]
        for rows, columns in sizes:
            ours = positions.bucketised(rows, columns, side)
            expected = vision_utils.get_vision_nearest_position_ids(torch.tensor([[rows, columns]]), side)
            assert np.array_equal(ours, expected)
            differing += not np.array_equal(ours, positions.bucketised(rows, columns, side, variant="idefics2"))
    assert differing  # the two multiply and divide, and round apart


def test_buckets_of_idefics():
    embeddings = Idefics3VisionEmbeddings(Idefics3VisionConfig(hidden_size=8, image_size=70, patch_size=1))
    with torch.no_grad():
        embeddings.patch_embedding.weight.zero_()
        embeddings.patch_embedding.bias.zero_()
        for rows, columns in [(1, 1), (70, 70), (35, 14), (49, 61), (3, 98)]:
            mask = torch.ones(1, rows, columns, dtype=torch.bool)
            theirs = embeddings(torch.zeros(1, 3, rows, columns), mask)[0]
            places = torch.from_numpy(positions.bucketised(rows, columns, 70, variant="idefics2"))
            assert torch.equal(embeddings.position_embedding(places), theirs)


def test_factorised_positions():
    rows, columns = torch.randn(8, 5), torch.randn(12, 5)
    at = positions.patch_coordinates((1, 4, 6))
    absolute = positions.factorised(rows, columns, at)
    assert torch.equal(absolute.view(4, 6, 5), rows[:4, None] + columns[None, :6])
    # Fractions stretch the grid over the tables: half as many patches stand two places apart.
    stretched = positions.factorised(rows, columns, positions.fractional(4, 6))
    assert torch.equal(stretched.view(4, 6, 5), rows[::2, None] + columns[None, ::2])
    for side in range(1, 80):
        table = torch.arange(side, dtype=torch.float32)[:, None]
        one = torch.zeros(1, 1)
        assert positions.factorised(table, one, positions.fractional(side, 1))[:, 0].tolist() == list(range(side))
    with pytest.raises(SpecError):
        positions.factorised(rows, columns, positions.patch_coordinates((1, 9, 2)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: positions.sincos_2d(2, 2, 6, variant="mae"),
        lambda: positions.sincos_2d(2, 2, 8, variant="other"),
        lambda: positions.sincos_1d([1], 2, last=True),
        lambda: positions.resize_table(torch.zeros(2, 2, 2), 2, 2, variant="other"),
        lambda: positions.rope_2d(torch.zeros(1, 2), 6),
        lambda: positions.rope_2d(torch.zeros(1, 2), 8, variant="other"),
        lambda: positions.rope_1d(torch.zeros(1), 3),
        lambda: positions.bucketised(0, 1, 2),
        lambda: positions.window_index([(1, 2, 2)], window=14),
        lambda: positions.mrope_positions(3, [positions.Vision((0,), (1, 4, 4))]),
        lambda: positions.mrope_positions(9, [positions.Vision((0, 4), (3, 4, 4))]),
        lambda: positions.mrope_positions(9, [positions.Vision((0,), (1, 3, 4))]),
        lambda: positions.mrope_positions(9, [], variant="other"),
    ],
)
def test_wrong_parameters(wrong):
    with pytest.raises(SpecError):
        wrong()
