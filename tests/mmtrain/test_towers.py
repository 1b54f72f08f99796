"""Towers of patches: other people's with their own weights, positions against dense ones, pictures as if alone; which
of them a config reaches, and what becomes of a batch through the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import SpecError
from mmdata.views.fuyu import Fuyu, fuyu_size
from mmdata.views.navit import NaFlex, Pix2Struct
from mmdata.views.patches import patch_coordinates
from mmtrain import certificate
from mmtrain.models import build, family_of
from mmtrain.models.configs import NavitConfig
from mmtrain.models.spec import NativeSpec, Views
from mmtrain.models.towers import Navit, presets
from mmtrain.models.towers.navit import relative_bias
from mmtrain.objective import loss_sum
from tests.mmtrain.test_native_connectors import SMALL, samples
from tests.mmtrain.tiny_models import vision, words
from tests.views.tiling import noise

SIZES = ((37, 91), (120, 60), (16, 300))
GRIDS = ((2, 3), (4, 1), (3, 5))


def coordinates(grids: Any = GRIDS) -> torch.Tensor:
    return torch.cat([torch.from_numpy(patch_coordinates((1, *grid))) for grid in grids])


def counts(grids: Any = GRIDS) -> list[int]:
    return [rows * columns for rows, columns in grids]


def seen(view: Any) -> tuple[list[torch.Tensor], list[tuple[int, int]]]:
    """Pictures through a view, and their grids."""
    plans = [view.plan(size) for size in SIZES]
    rows = [view.realize(noise(*size), plan) for size, plan in zip(SIZES, plans, strict=True)]
    return rows, [plan.grid[1:] for plan in plans]


def kept(config: Any, folder: Path) -> Path:
    """A folder with a tower's config, and no processor's files."""
    config.save_pretrained(folder)
    return folder


@torch.no_grad()
def test_naflex_is_siglip_2_without_its_padding(tmp_path: Path) -> None:
    """Copied weights, pictures through the views of both, the last layer's features and those of the layer before."""
    config = hf.Siglip2VisionConfig(**{**vision(num_patches=16), "patch_size": 8})
    theirs = hf.Siglip2VisionModel(config).eval()
    mine = Navit(presets.of_hf(config, kept(config, tmp_path))).eval()
    mine.load_state_dict(presets.of_siglip2(theirs.state_dict()))
    padded, grids = seen(NaFlex(patch=8, budget=40))
    packed, _ = seen(NaFlex(patch=8, budget=40, pad=False))
    mask = torch.stack([(torch.arange(40) < rows * columns).int() for rows, columns in grids])
    told = theirs(torch.stack(padded), mask, torch.tensor(grids), output_hidden_states=True)
    for layer, expected in ((-1, told.last_hidden_state), (-2, told.hidden_states[-2])):
        found = mine(torch.cat(packed), coordinates(grids), counts(grids), grids, layer)
        torch.testing.assert_close(found, expected[mask.bool()], rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_pix2struct_is_theirs_without_its_padding(tmp_path: Path) -> None:
    config = hf.Pix2StructVisionConfig(
        hidden_size=32, patch_embed_hidden_size=3 * 8**2, d_ff=48, d_kv=8, num_hidden_layers=2, num_attention_heads=4,
        patch_size=8, seq_len=64, dropout_rate=0.0, attention_dropout=0.0,
    )  # fmt: skip
    theirs = hf.Pix2StructVisionModel(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mine = Navit(presets.of_hf(config, kept(config, tmp_path))).eval()
    mine.load_state_dict(presets.of_pix2struct(theirs.state_dict()))
    padded, grids = seen(Pix2Struct(patch=8, budget=40))
    packed, _ = seen(Pix2Struct(patch=8, budget=40, pad=False))
    assert packed[0].shape[1] == 2 + 3 * 8**2  # row and column stand before the pixels
    mask = torch.stack([(torch.arange(40) < rows * columns).float() for rows, columns in grids])
    expected = theirs(torch.stack(padded), mask).last_hidden_state[mask.bool()]
    found = mine(torch.cat(packed), coordinates(grids), counts(grids), grids)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_fuyu_is_its_processors_patches_and_one_projection() -> None:
    """Through the whole model: connector `linear` with Fuyu's weights answers what Fuyu's projection does."""
    processor = hf.FuyuImageProcessor(size={"height": 90, "width": 120}, patch_size={"height": 30, "width": 30})
    theirs = hf.FuyuConfig(patch_size=30, num_channels=3, text_config={"model_type": "persimmon", "hidden_size": 16})
    projection = torch.nn.Linear(theirs.patch_size**2 * theirs.num_channels, 16)
    view = Fuyu(height=90, width=120)
    spec = NativeSpec(**{**told({"kind": "fuyu", "height": 90, "width": 120}), "connector": {"kind": "linear"}})
    model = build(spec, words(), seed=0).model
    model.vision_connector = type(model.vision_connector)(model.connecting, 3 * 30**2, 16, 1)
    model.vision_connector.proj.load_state_dict(projection.state_dict())
    for size in ((37, 91), (200, 160), (90, 120), (30, 400)):
        picture = noise(*size)
        plan = view.plan(size)
        rows = view.realize(picture, plan)
        batch = processor(picture, return_tensors="pt")
        whole = batch["images"][0]
        height, width = fuyu_size(*size, 90, 120)
        assert (int(batch["image_unpadded_heights"][0][0]), int(batch["image_unpadded_widths"][0][0])) == (
            height,
            width,
        )
        cut = whole[:, :, : -(-height // 30) * 30, : -(-width // 30) * 30]
        expected = processor.patchify_image(cut)[0]
        torch.testing.assert_close(rows, expected, rtol=0, atol=1e-5)
        patches = model.patches({"pixel_values": rows, "image_grid_thw": torch.tensor([plan.grid])})
        assert torch.equal(patches.rows, rows)
        torch.testing.assert_close(model.vision_connector(patches), projection(expected), rtol=1e-4, atol=1e-5)


def dense(mine: Navit, x: torch.Tensor, grids: Any) -> torch.Tensor:
    """A tower with a bias, picture by picture, score by score."""
    config, made = mine.config, []
    reach = config.max_grid - 1
    for piece, (rows, columns) in zip(x.split(counts(grids)), grids, strict=True):
        places = [(r, c) for r in range(rows) for c in range(columns)]
        bias = torch.zeros(config.num_attention_heads, len(places), len(places))
        for t, (r, c) in enumerate(places):
            for u, (q, d) in enumerate(places):
                down, right = (max(-reach, min(reach, each)) + reach for each in (r - q, c - d))
                bias[:, t, u] = mine.row_bias.weight[down] + mine.column_bias.weight[right]
        h = F.linear(piece, mine.patch_embedding.weight, mine.patch_embedding.bias)
        for layer in mine.layers:
            inner = layer.attention_norm(h)
            q, k, v = layer.attention.qkv(inner).view(len(h), 3, config.num_attention_heads, -1).permute(1, 2, 0, 3)
            scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
            h = h + layer.attention.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
            h = h + layer.mlp(layer.mlp_norm(h))
        made.append(mine.norm(h))
    return torch.cat(made)


@pytest.mark.parametrize("reach", [2, 8])
def test_the_bias_of_rows_and_columns_is_the_dense_one(reach: int) -> None:
    """Values and gradients, of distances within the tables and beyond them."""
    torch.manual_seed(0)
    config = NavitConfig(hidden_size=32, num_attention_heads=4, patch_size=2, positions="bias", max_grid=reach)
    mine = Navit(config)
    torch.nn.init.normal_(mine.row_bias.weight)
    torch.nn.init.normal_(mine.column_bias.weight)
    x = torch.randn(sum(counts()), 12)
    found, expected = mine(x, coordinates(), counts()), dense(mine, x, GRIDS)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    weigh = torch.randn_like(found)
    tables = [mine.row_bias.weight, mine.column_bias.weight, mine.layers[0].attention.qkv.weight]
    mine_, theirs = (torch.autograd.grad((each * weigh).sum(), tables) for each in (found, expected))
    for gradient, other in zip(mine_, theirs, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-4)
    made = relative_bias(mine.row_bias.weight, mine.column_bias.weight, coordinates())
    assert made.key.sum() == 2 * len(x)  # one row and one column each


@pytest.mark.parametrize("positions", ["rope", "factorised", "table", "bias"])
def test_pictures_of_a_row_are_as_if_alone(positions: str) -> None:
    config = NavitConfig(hidden_size=32, num_attention_heads=4, patch_size=2, positions=positions, max_grid=8)
    mine = Navit(config)
    x = torch.randn(sum(counts()), 12)
    whole = mine(x, coordinates(), counts(), GRIDS)
    alone = [
        mine(piece, coordinates([grid]), [len(piece)], [grid])
        for piece, grid in zip(x.split(counts()), GRIDS, strict=True)
    ]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=1e-6)


def told(vision: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": "native",
        "vision": vision,
        "audio": None,
        "language": SMALL,
        "connector": {"kind": "linear"},
        **more,
    }


def kinds(folder: Path) -> dict[str, dict[str, Any]]:
    """Towers of every kind, small."""
    hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**vision(num_patches=9))).save_pretrained(folder / "siglip2")
    hf.Siglip2ImageProcessor(max_num_patches=20, patch_size=14).save_pretrained(folder / "siglip2")
    hf.ViTModel(hf.ViTConfig(**vision())).save_pretrained(folder / "vit")
    sizes = {"hidden": 32, "layers": 2, "heads": 4, "inner": 48}
    return {
        "naflex": {"kind": "naflex", **sizes, "budget": 24, "side": 4},
        "pix2struct": {"kind": "pix2struct", **sizes, "budget": 24},
        "fuyu": {"kind": "fuyu", "height": 60, "width": 90},
        "bias": {**SMALL, "positions": "bias", "max_grid": 4},
        "layer": {**SMALL, "layers": 2, "positions": "table", "max_grid": 4, "layer": -2},
        "siglip2": {"kind": "hf", "path": str(folder / "siglip2")},
        "vit": {"kind": "hf", "path": str(folder / "vit"), "layer": -2},
    }


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return kinds(tmp_path_factory.mktemp("towers"))


@pytest.mark.parametrize(
    "name",
    [
        "pix2struct",
        "fuyu",
        "bias",
        "siglip2",
        "vit",
        *(pytest.param(n, marks=pytest.mark.soak) for n in ("naflex", "layer")),
    ],
)
def test_a_config_reaches_it_and_packed_is_alone(name: str, towers: Any, folder: Path, tmp_path: Path) -> None:
    """Tokens are as planned, gradients are where they should be and those of the samples alone, and what is saved loads
    to the same."""
    views = {"image": {"max_pixels": 96 * 96}} if name in ("bias", "layer") else {}
    spec = NativeSpec(**told(towers[name], views=views))
    model, family = build(spec, words(), seed=1), family_of(spec, words())
    certificate.adopt(model, "varlen")
    found, collate = samples(folder, family), PackedCollator()
    batch = collate(found)
    tokens = int((batch["input_ids"] == model.config.image_token_id).sum())
    assert tokens == sum(slot.tokens for sample in found for slot in sample.slots)
    row, weight = loss_sum(model, batch)
    (row / weight).backward()
    together = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    silent = {each for each, _ in model.named_parameters() if each not in together}
    if name in ("layer", "vit"):  # of which the layer before the last is taken
        assert silent
        assert all(".1." in each or "norm" in each or "pooler" in each for each in silent), silent
    else:
        assert not silent
    model.zero_grad(set_to_none=True)
    for sample in found:
        (loss_sum(model, collate(sample))[0] / weight).backward()
    for each, gradient in together.items():
        assert (model.get_parameter(each).grad - gradient).abs().max() < 1e-5, each
    model.save_pretrained(tmp_path)
    again = hf.AutoModelForImageTextToText.from_pretrained(tmp_path, local_files_only=True).eval()
    inputs = {k: v for k, v in model_inputs(collate(found[0])).items() if k not in (*certificate.BORDERS, "labels")}
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, model.eval()(**inputs).logits, rtol=1e-5, atol=1e-6)


def test_a_tower_is_taken_out_of_a_whole_models_folder(tmp_path: Path) -> None:
    """SigLIP 2 beside its text tower, Pix2Struct with its decoder; of both the processor says how many patches."""
    sizes = {"text_config": {**vision(), "vocab_size": 9, "max_position_embeddings": 8, "projection_size": 32}}
    siglip = hf.Siglip2Model(hf.Siglip2Config(vision_config=vision(num_patches=9), **sizes))
    siglip.save_pretrained(tmp_path / "siglip2")
    hf.Siglip2ImageProcessor(max_num_patches=20, patch_size=14).save_pretrained(tmp_path / "siglip2")
    small = {"hidden_size": 32, "d_ff": 48, "d_kv": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    tower = {**small, "patch_embed_hidden_size": 3 * 8**2, "patch_size": 8, "seq_len": 64}
    text = {"hidden_size": 32, "d_ff": 48, "d_kv": 8, "num_layers": 1, "num_heads": 4, "vocab_size": 9}
    struct = hf.Pix2StructForConditionalGeneration(hf.Pix2StructConfig(vision_config=tower, text_config=text))
    struct.save_pretrained(tmp_path / "pix2struct")
    hf.Pix2StructImageProcessor(max_patches=30, patch_size={"height": 8, "width": 8}).save_pretrained(
        tmp_path / "pix2struct"
    )
    expected = {
        "siglip2": presets.of_siglip2(siglip.vision_model.state_dict()),
        "pix2struct": presets.of_pix2struct(struct.encoder.state_dict()),
    }
    for name, budget in (("siglip2", 20), ("pix2struct", 30)):
        spec = NativeSpec(**told({"kind": "hf", "path": str(tmp_path / name)}))
        mine = build(spec, words(), seed=0).model.vision_tower.state_dict()
        assert mine.keys() == expected[name].keys()
        assert all(torch.equal(mine[each], expected[name][each]) for each in mine)
        assert family_of(spec, words()).media["image"].view.budget == budget
        fewer = spec.model_copy(update={"views": Views(image={"budget": 7})})
        assert family_of(fewer, words()).media["image"].view.plan((90, 90)).tokens <= 7
        assert "video" not in family_of(spec, words()).media
        with pytest.raises(SpecError, match=r"model\.views\.image: .*'bugdet'"):
            family_of(spec.model_copy(update={"views": Views(image={"bugdet": 7})}), words())
        with pytest.raises(SpecError, match=r"model\.vision\.merge: 2, but pictures of any shape"):
            family_of(NativeSpec(**told({"kind": "hf", "path": str(tmp_path / name), "merge": 2})), words())


@pytest.mark.parametrize("kind", ["navit", "clip"])
def test_a_layer_that_the_tower_does_not_have_is_refused(kind: str, tmp_path: Path) -> None:
    """Slices take any number: of two layers, -4 would be the output of the first."""
    tower: dict[str, Any] = {**SMALL, "layers": 2}
    if kind == "clip":
        hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision())).save_pretrained(tmp_path)
        tower = {"kind": "hf", "path": str(tmp_path)}
    build(NativeSpec(**told({**tower, "layer": -3})), words(), seed=0)
    with pytest.raises(SpecError, match=r"model\.vision\.layer: -4, and the tower has 2 layers: -3 is what enters"):
        build(NativeSpec(**told({**tower, "layer": -4})), words(), seed=0)
    with pytest.raises(ValueError, match="less than or equal to -1"):
        NativeSpec(**told({**tower, "layer": 1}))


def test_a_saved_model_makes_the_batches_that_it_was_made_with(towers: Any, folder: Path, tmp_path: Path) -> None:
    for name in ("pix2struct", "fuyu"):
        spec = NativeSpec(**told(towers[name]))
        build(spec, words(), seed=0).save_pretrained(tmp_path / name)
        again = NativeSpec(kind="native", path=str(tmp_path / name))
        before, after = (family_of(each, words()) for each in (spec, again))
        assert before.describe() == after.describe()
        sample, other = (samples(folder, family, 1)[0] for family in (before, after))
        assert (sample.input_ids == other.input_ids).all()
    breaks = words()("\n", add_special_tokens=False).input_ids
    ids, token = sample.input_ids.tolist(), words().convert_tokens_to_ids("<image>")
    first = ids.index(token)
    columns = next(at for at, each in enumerate(ids[first:]) if each != token)
    assert ids[first + columns : first + columns + len(breaks)] == breaks
    assert sum(each == token for each in ids) % columns == 0


@torch.no_grad()
def test_a_bias_in_half_precision_is_near() -> None:
    config = NavitConfig(hidden_size=32, num_attention_heads=4, patch_size=2, positions="bias", max_grid=8)
    mine, x = Navit(config), torch.randn(sum(counts()), 12)
    torch.nn.init.normal_(mine.row_bias.weight)
    whole = mine(x, coordinates(), counts())
    with torch.autocast("cpu", torch.bfloat16):
        half = mine(x, coordinates(), counts())
    assert (half.float() - whole).abs().max() < 0.1
