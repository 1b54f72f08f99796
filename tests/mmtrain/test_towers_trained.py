"""Towers while they are trained, through the command: what is drawn at random is the same again, layers thaw from the
top and stay to the bit until then, rates fall by depth in every kind of tower; NaViT with dropped patches, pooled."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.views.navit import image_ids, pooling_mask
from mmdata.views.patches import patch_coordinates, patchify
from mmtrain import certificate, checkpoint, sft
from mmtrain.blocks import check_chance
from mmtrain.components import aliases
from mmtrain.models import build, family_of
from mmtrain.models.configs import NavitConfig
from mmtrain.models.fusion.late import LateHead, LateSpec
from mmtrain.models.layers import Borders, Context
from mmtrain.models.placeholders import blanked
from mmtrain.models.spec import NativeSpec
from mmtrain.models.towers import Navit
from mmtrain.models.towers.mixup import mixed
from mmtrain.objective import loss_sum
from mmtrain.rules import Rule, resolve
from tests.mmtrain.test_native_connectors import MODEL, SMALL, command, samples
from tests.mmtrain.test_sft import same_weights, trace
from tests.mmtrain.tiny_models import vision, words

PATCH = 4


@pytest.mark.parametrize("merge", [1, 2])
def test_mixup_is_of_a_picture_and_itself_at_half_the_size(merge: int) -> None:
    """Beside a mixture of whole pictures, each alone; only in training; what is drawn is keyed."""
    torch.manual_seed(0)
    tower = Navit(NavitConfig(hidden_size=16, num_attention_heads=2, patch_size=PATCH, mixup=0.4)).train()
    grids = ((4, 6), (2, 2)) if merge == 2 else ((3, 5), (1, 2))
    pictures = [torch.rand(3, h * PATCH, w * PATCH) for h, w in grids]
    pixels = torch.cat([patchify(picture, PATCH, merge=merge) for picture in pictures])
    places = torch.cat([torch.from_numpy(patch_coordinates((1, *grid), merge)) for grid in grids])
    counts = [h * w for h, w in grids]
    config = SimpleNamespace(vision_config=tower.config, merge=merge, vision_layer=-1)
    rows = tower(pixels, places, counts)
    torch.manual_seed(3)
    found = mixed(tower, config, pixels, rows, places, grids)
    torch.manual_seed(3)
    shares = torch.distributions.Beta(0.4, 0.4).sample((2,))
    assert 0 < shares.min() < shares.max() < 1
    expected = []
    for picture, (h, w), share, own in zip(pictures, grids, shares, rows.split(counts), strict=True):
        small = -(-h // 2), -(-w // 2)
        if (h, w) == (2 * small[0], 2 * small[1]):
            low = picture.view(3, small[0] * PATCH, 2, small[1] * PATCH, 2).mean((2, 4))
        else:
            low = F.adaptive_avg_pool2d(picture, (small[0] * PATCH, small[1] * PATCH))
        where = torch.from_numpy(patch_coordinates((1, *small)))
        made = tower(patchify(low, PATCH), where, [len(where)]).T.view(1, -1, *small)
        wide = F.interpolate(made, (h, w), mode="bilinear")[0].permute(1, 2, 0)
        row, column = torch.from_numpy(patch_coordinates((1, h, w), merge)).T
        expected.append(share * own + (1 - share) * wide[row, column])
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_what_is_drawn_by_pack_refuses_packs_that_share_a_pass() -> None:
    for model in ({"vision": {**SMALL, "mixup": 0.5}}, {"modality_dropout": {"picture": 0.3}}):
        with pytest.raises(SpecError, match="drop at random"):
            check_chance(build(NativeSpec(**{**MODEL, **model}), words(), seed=0), 2)
    with pytest.raises(ValueError, match="leaves no whole grids, which mixup wants"):
        NativeSpec(**{**MODEL, "vision": {**SMALL, "drop": 0.5, "mixup": 0.5}})
    late = {"fusion": {"kind": "late"}, "objective": "contrastive", "modality_dropout": {"picture": 0.3}}
    with pytest.raises(ValueError, match="objective: contrastive learns from pictures alone"):
        NativeSpec(**{**MODEL, **late})


def test_a_sample_goes_without_all_its_media() -> None:
    rows, cu = torch.ones(7, 2), torch.tensor([0, 4, 6, 9])
    places = torch.tensor([1, 7, 3])  # a picture of the first sample, one of the third, one more of the first
    torch.manual_seed(1)
    gone = torch.rand(3) < 0.5
    torch.manual_seed(1)
    found = blanked(rows, (2, 1, 4), places, cu, 0.5)
    assert gone.tolist() == [False, True, True]
    assert found[:, 0].tolist() == [1, 1, 0, 1, 1, 1, 1]


def test_placeholders_stay_where_media_are_left_out(folder: Path) -> None:
    """Samples that keep their pictures are as without dropout, to the bit; others are as with pictures of nothing."""
    spec = NativeSpec(**{**MODEL, "modality_dropout": {"picture": 0.5}})
    model = build(spec, words(), seed=1)
    certificate.adopt(model, "varlen")
    batch = PackedCollator()(samples(folder, family_of(spec, words())))
    seen: list[torch.Tensor] = []
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"][0]), with_kwargs=True
    )
    for training in (False, True):
        torch.manual_seed(1)
        loss_sum(model.train(training), batch)
    whole, less = seen
    gone = [False, True, True]  # as above
    ends = batch["cu_seq_lens_q"].tolist()
    for sample, (start, stop) in enumerate(itertools.pairwise(ends)):
        image = (batch["input_ids"][0, start:stop] == model.config.image_token_id)[:, None]
        assert image.any()
        expected = whole[start:stop].masked_fill(image, 0) if gone[sample] else whole[start:stop]
        assert torch.equal(less[start:stop], expected)


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("towers")
    hf.CLIPVisionModel(hf.CLIPVisionConfig(**vision())).save_pretrained(root / "clip")
    hf.SiglipVisionModel(hf.SiglipVisionConfig(**vision())).save_pretrained(root / "siglip")
    hf.Dinov2Model(hf.Dinov2Config(**{**vision(), "mlp_ratio": 2})).save_pretrained(root / "dinov2")
    hf.ViTModel(hf.ViTConfig(**vision())).save_pretrained(root / "vit")
    return root


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "vit", "navit", "naflex", "pix2struct"])
def test_rates_and_thawing_go_by_depth_in_every_tower(name: str, towers: Path) -> None:
    """What BEiT's formula says: decay ** (L + 1 - i), 0 for embeddings, i for the i-th layer, L + 1 behind the last."""
    tower: dict[str, Any] = {"kind": "hf", "path": str(towers / name)}
    if name in ("naflex", "pix2struct"):
        tower = {"kind": name, "hidden": 32, "layers": 2, "heads": 4, "inner": 32}
    elif name == "navit":
        tower = {**SMALL, "layers": 2, "positions": "factorised"}
    model = build(NativeSpec(**{**MODEL, "vision": tower, "views": {}}), words(), seed=0)
    names = list(aliases(model).values())
    settings = resolve([Rule(match=r"vision\..*", lr=1.0, layer_decay=0.5, freeze_step=0.1)], names)
    found: dict[str, set[tuple[float, float]]] = {}
    for each in (alias for alias in names if alias.startswith("vision.")):
        inside = [at for at in (0, 1) if f".{at}." in each and ("layer" in each)]
        before = "embed" in each or "pre_layrnorm" in each or each.split(".")[1] in ("rows", "columns", "table")
        kind = f"layer {inside[0]}" if inside else "before" if before else "behind"
        found.setdefault(kind, set()).add((settings[each].rate(9.0), round(settings[each].thaws, 3)))
    assert found == {
        "before": {(0.125, 0.2)},
        "layer 0": {(0.25, 0.1)},
        "layer 1": {(0.5, 0.0)},
        "behind": {(1.0, 0.0)},
    }


STAGED = {
    "vision": {**SMALL, "layers": 2, "mixup": 0.5},
    "modality_dropout": {"picture": 0.4},
}
RULES = [{"match": r"vision\..*", "layer_decay": 0.5, "freeze_until": 0.3, "freeze_step": 0.34}]


@pytest.fixture(scope="module")
def staged(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of six steps the last layer learns from the third, the first one from the fifth, embeddings never."""
    output = tmp_path_factory.mktemp("staged") / "run"
    told = command(output, folder, STAGED, parameters=RULES, checkpoint={"every": 1, "keep": 6})
    assert sft.main(told) == 0
    return output


def test_layers_are_frozen_to_the_bit_until_they_thaw(staged: Path) -> None:
    saved = [load_file(folder / "model.safetensors") for folder in checkpoint.found(staged)]
    assert len(saved) == 6

    def moved(step: int) -> set[str]:
        mine = {n for n in saved[0] if "vision_tower" in n}
        return {n.split("vision_tower.")[1] for n in mine if not torch.equal(saved[0][n], saved[step - 1][n])}

    assert not moved(2)
    assert {name.split(".")[0] for name in moved(3)} == {"layers", "norm"}
    assert not any(name.startswith("layers.0.") for name in moved(4))
    assert any(name.startswith("layers.0.") for name in moved(6))
    assert not any(name.startswith("patch_embedding") for name in moved(6))


def test_what_was_drawn_is_drawn_again(staged: Path, folder: Path, tmp_path: Path) -> None:
    told = command(tmp_path / "run", folder, STAGED, parameters=RULES, checkpoint={"every": 1, "keep": 6})
    assert sft.main([*told, "--resume", str(checkpoint.found(staged)[2])]) == 0
    assert trace(tmp_path / "run") == trace(staged)[3:]
    assert same_weights(tmp_path / "run", staged)


@torch.no_grad()
def test_pictures_with_dropped_patches_are_pooled_by_masked_attention() -> None:
    """A row of NaViT's pictures, some patches dropped, beside one query for each over the whole row with a mask."""
    torch.manual_seed(0)
    tower = Navit(
        NavitConfig(hidden_size=16, num_attention_heads=2, patch_size=PATCH, positions="factorised", drop=0.5)
    )
    head = LateHead(LateSpec(kind="late", pool="attention", heads=2), 16)
    counts = [7, 1, 4]
    rows = tower(torch.randn(12, 3 * PATCH**2), torch.randint(0, 9, (12, 2)), counts)
    pooled = head._pooled(Context(rows=rows, borders=Borders.of(counts, rows.device)))
    theirs, inner = nn.MultiheadAttention(16, 2), head.attention
    theirs.in_proj_weight.copy_(torch.cat([inner.q.weight, inner.k.weight, inner.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([inner.q.bias, inner.k.bias, inner.v.bias]))
    theirs.out_proj.load_state_dict(inner.out.state_dict())
    mask = torch.from_numpy(pooling_mask(image_ids(counts), 3))
    expected = theirs(head.query.expand(3, -1), rows, rows, attn_mask=~mask)[0]
    torch.testing.assert_close(pooled, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_navit_learns_pairs_from_what_is_left_of_its_pictures(folder: Path, tmp_path: Path) -> None:
    """Sizes and dropped patches drawn anew, packed, factorised, one vector of each picture, from a config."""
    model = {
        "vision": {**SMALL, "positions": "factorised", "drop": 0.5},
        "views": {"image": {"side": 64, "low": 48, "high": 96}},
        "connector": {"kind": "linear"},
        "fusion": {"kind": "late", "projection": 8, "pool": "attention"},
        "objective": "contrastive",
    }
    more = {"parameters": [{"match": r"head\..*", "train": False}], "loss_norm": "sample", "steps": 2}
    assert sft.main(command(tmp_path / "run", folder, model, **more)) == 0
    assert all(line["loss"] > 0 for line in trace(tmp_path / "run"))
