"""The grounding head: losses against other people's, boxes found among tokens, masks on grids, packed as apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText
from transformers.loss.loss_for_object_detection import dice_loss

from examples.learn import boxes
from mmdata import StreamingDataset, build
from mmdata.boxes import (
    FORMATS,
    BoxFormat,
    coordinate_tokens,
    format_answer,
    format_boxes,
    format_objects,
    moves_with_size,
)
from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Encoded, Weights, encode, get_template
from mmdata.types import Origin, Packed, Sample, Text
from mmtrain import auxiliary
from mmtrain.components import aliases
from mmtrain.models import build as build_model
from mmtrain.models import family_of, heads
from mmtrain.models.heads import box_losses
from mmtrain.models.heads.grounding import GroundingHead, GroundingSpec, extent
from mmtrain.models.heads.located import locate
from mmtrain.models.heads.masks import filled
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses
from mmtrain.tokenizer import TokenizerSpec, make
from mmtrain.weighting import step_weights
from tests.tokenizer_fixture import small_tokenizer

LEARN = Path(__file__).parents[2] / "examples" / "learn"
SIDES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
"""Few, so that edges touch, and boxes are equal, inside each other, or without an area."""
BOX = st.tuples(SIDES, SIDES, SIDES, SIDES)
CLOSE = pytest.approx


def rows(drawn: list[tuple[float, ...]]) -> torch.Tensor:
    return box_losses.ordered(torch.tensor(drawn))


@given(st.lists(BOX, min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=40)
def test_iou_and_giou_are_torchvisions_of_any_boxes(drawn: list[tuple[float, ...]], data: st.DataObject) -> None:
    a = rows(drawn).requires_grad_()
    b = rows(data.draw(st.lists(BOX, min_size=len(drawn), max_size=len(drawn))))
    theirs = torchvision.ops.generalized_box_iou_loss(a, b)
    assert torch.allclose(1 - box_losses.giou(a, b), theirs, atol=1e-6)
    mine = torch.autograd.grad((1 - box_losses.giou(a, b)).sum(), a)[0]
    assert torch.isfinite(mine).all()
    areas = [(each[:, 2:] - each[:, :2]).prod(-1) for each in (a, b)]
    real = torch.maximum(*areas) > 0
    wanted = torchvision.ops.box_iou(a, b).diagonal()
    assert torch.allclose(box_losses.iou(a, b)[real], wanted[real], atol=1e-5)
    assert (box_losses.iou(a, b)[~real] == 0).all()
    assert torch.allclose(box_losses.to_xyxy(box_losses.to_cxcywh(a)), a, atol=1e-6)
    converted = torchvision.ops.box_convert(a, "xyxy", "cxcywh")
    assert torch.allclose(box_losses.to_cxcywh(a), converted, atol=1e-6)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_losses_of_masks_are_transformers_and_torchs(down: int, across: int, seed: int) -> None:
    made = torch.Generator().manual_seed(seed)
    logits = torch.randn(down, across, generator=made) * 5
    wanted = (torch.rand(down, across, generator=made) > 0.5).float()
    dice: Any = dice_loss
    theirs = dice(logits.flatten()[None], wanted.flatten()[None], 1)
    assert float(box_losses.mask_dice(logits, wanted)) == CLOSE(float(theirs), abs=1e-5)
    each = [F.binary_cross_entropy_with_logits(x, y) for x, y in zip(logits.flatten(), wanted.flatten(), strict=True)]
    assert float(box_losses.mask_bce(logits, wanted)) == CLOSE(float(sum(each) / len(each)), rel=1e-5)


@given(SIDES, SIDES, st.integers(1, 9))
@settings(deadline=None, max_examples=40)
def test_cells_are_covered_as_counting_has_it(start: float, stop: float, cells: int) -> None:
    found = box_losses.covered(torch.tensor(start), torch.tensor(stop), cells)
    points = (np.arange(cells * 1000) + 0.5) / (cells * 1000)
    counted = ((points > start) & (points < stop)).reshape(cells, 1000).mean(1)
    assert np.abs(found.numpy() - counted).max() < 2e-3


def test_a_mask_that_fills_its_box_agrees_with_it() -> None:
    box = torch.tensor([0.25, 0.5, 0.75, 1.0], requires_grad=True)
    inside = torch.zeros(4, 4)
    inside[2:, 1:3] = 1
    full = box_losses.box_mask(inside * 40 - 20, box)
    assert float(full) == CLOSE(0, abs=1e-4)
    assert float(box_losses.box_mask(inside.flip(0) * 40 - 20, box)) > 0.9
    shorter = torch.tensor([0.25, 0.6, 0.75, 1.0], requires_grad=True)
    (slope,) = torch.autograd.grad(box_losses.box_mask(inside * 40 - 20, shorter), shorter)
    assert slope[1] > 0, "the box, too, is told that they differ: its top is to go up"


@pytest.mark.parametrize("name", [name for name in FORMATS if not moves_with_size(name)])
def test_boxes_are_found_among_the_tokens_of_answers(name: BoxFormat) -> None:
    tokenizer: Any = small_tokenizer()
    given = [(0.1, 0.2, 0.5, 0.625), (0.25, 0.0, 0.75, 1.0)]
    answer = f"Here: {format_answer('cat', given, (1, 1), name)}."
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("Ünder the cat, where?", answer)]
    both = torch.tensor(ids[0] + ids[1])
    labels = torch.where(torch.arange(len(both)) < len(ids[0]), -100, both)
    twice = {
        "input_ids": both.repeat(2)[None],
        "labels": labels.repeat(2)[None],
        "cu_seq_lens_q": torch.tensor([0, len(both), 2 * len(both)]),
    }

    def decode(token: int) -> str:
        return str(tokenizer.decode([token]))

    places = locate(twice, decode, name)
    assert [place.segment for place in places] == [0, 0, 1, 1]
    for place, box in zip(places, given * 2, strict=True):
        assert place.box == CLOSE(box, abs=0.05 if name == "kosmos2" else 0.006)
        assert place.query == place.first - 1
        before = tokenizer.decode(both.repeat(2)[place.segment * len(both) : place.first])
        assert format_answer("cat", given, (1, 1), name).startswith(before.partition("Here: ")[2][:3])
    asked = {**twice, "labels": torch.full_like(twice["labels"], -100)}
    assert locate(asked, decode, name) == [], "a box that is given is not asked for"


@given(BOX, st.integers(1, 5), st.integers(1, 5))
@settings(deadline=None, max_examples=40)
def test_polygons_cover_what_their_box_covers(box: tuple[float, ...], down: int, across: int) -> None:
    left, top, right, bottom = box_losses.ordered(torch.tensor(box)).tolist()
    outline = [value * 80 for value in (left, top, right, top, right, bottom, left, bottom)]
    found = filled([outline], (80, 80), down, across)
    wanted = torch.outer(
        box_losses.covered(torch.tensor(top), torch.tensor(bottom), down),
        box_losses.covered(torch.tensor(left), torch.tensor(right), across),
    )
    assert np.abs(found - wanted.numpy()).max() <= 1 / 8 + 1e-4  # a sixteenth of a cell at its top, and at its bottom
    assert found.mean() == CLOSE(float(wanted.mean()), abs=1 / 8 / down + 1e-4)


def test_polygons_cover_what_a_fine_mask_of_them_does() -> None:
    """Slanted ones, one that crosses itself, one with parts, beside many points that are asked each by itself."""
    star = [50, 5, 78, 90, 5, 35, 95, 35, 22, 90]
    slanted = [10, 20, 90, 5, 70, 95]
    parts = [[5, 5, 30, 10, 20, 40], [60, 60, 95, 70, 80, 95]]
    for polygons in ([star], [slanted], parts, [[*slanted, 7.0]]):
        points = (np.arange(400) + 0.5) / 4
        x, y = np.meshgrid(points, points)
        inside = np.zeros_like(x, bool)
        for polygon in polygons:
            corners = list(zip(polygon[::2], polygon[1::2], strict=False))
            odd = np.zeros_like(inside)
            for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
                if ay != by:
                    odd ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * (bx - ax) / (by - ay))
            inside |= odd
        wanted = inside.reshape(5, 80, 4, 100).mean((1, 3))
        assert np.abs(filled(polygons, (100, 100), 5, 4) - wanted).max() < 0.02
    assert not filled([[1, 2, 3, 4]], (100, 100), 2, 2).any(), "no area"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of drawn shapes, as the recipe has it."""
    root = tmp_path_factory.mktemp("boxes")
    boxes.main([str(root), "--train", "12", "--heldout", "1"])
    told = ["--set", f"source.path={root}/boxes/train.jsonl", "--output", str(root / "data"), "--quiet"]
    assert build.main(["--spec", str(LEARN / "boxes_build.yaml"), *told]) == 0
    return root / "data"


def words() -> Any:
    tokenizer: Any = small_tokenizer()
    tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<video>", "<audio>"]})
    return tokenizer


def model_of(tokenizer: Any, **grounding: Any) -> tuple[Any, Any]:
    spec = NativeSpec.model_validate(
        {
            "kind": "native",
            "vision": {"hidden": 16, "layers": 1, "heads": 2, "patch": 16, "merge": 2},
            "audio": None,
            "language": {"hidden": 16, "layers": 1, "heads": 2},
            "views": {"image": {"min_pixels": 4096, "max_pixels": 4096}},
            "heads": {"grounding": {"coordinates": "internvl", "hidden": 16, **grounding}},
        }
    )
    return build_model(spec, tokenizer, seed=0), family_of(spec, tokenizer)


def stream(folder: Path, family: Any, **told: Any) -> list[Packed]:
    own = {"dataset": str(folder), "template": "basic", "carry": ("boxes", "polygons"), "shuffle": "none"}
    found = StreamingDataset(StreamSpec.model_validate({**own, **told}), family=family)
    return [pack for pack in found if isinstance(pack, Packed)]


def stepped(model: Any, batches: list[dict[str, Any]], unit: Any = "box") -> dict[str, float]:
    """The mean of each term over the boxes, or other units, of all batches, and how many these are."""
    terms = auxiliary.declared(model)
    total: dict[str, float] = {}
    count = 0.0
    for batch in batches:
        weights = step_weights(batch, "token")
        units = auxiliary.units(model, batch, weights, terms)
        with auxiliary.recording() as said:
            losses(model, batch, weights)
        count += float(units[unit].sum())
        for name, value in auxiliary.summed(terms, said, units).items():
            total[name] = total.get(name, 0.0) + float(value)
    return {name: value / max(count, 1) for name, value in total.items()} | {unit: count}


def test_a_head_learns_packed_as_apart_and_is_saved(drawn: Path, tmp_path: Path) -> None:
    tokenizer = words()
    model, family = model_of(tokenizer, masks=True, look=True)
    packs = stream(drawn, family, max_length=1024)
    apart = stream(drawn, family, packing="none", batch_rows=1)
    assert len(packs) < len(apart) == 12
    collate = PackedCollator()
    together = stepped(model, [collate(packs)])
    separate = stepped(model, [collate(each) for each in apart])
    assert together == CLOSE(separate, abs=1e-5)
    assert together["box"] == 12
    assert set(together) == {"box_l1", "box_giou", "box_iou", "mask_bce", "mask_dice", "box_mask", "box"}
    assert min(together["mask_bce"], together["box_mask"]) > 0
    without = {**collate(packs), "fields": []}
    assert stepped(model, [without])["mask_bce"] == 0, "no polygons, no mask to learn; the box's shadow is left"
    assert stepped(model, [without])["box_mask"] == CLOSE(together["box_mask"], abs=1e-6)
    blind = {**collate(packs), "labels": torch.full_like(collate(packs)["labels"], -100)}
    summed, _ = losses(model, blind, torch.zeros(blind["labels"].numel()))
    assert float(summed) == 0
    named = aliases(model)
    assert {alias for alias in named.values() if alias.startswith("heads.")} > {"heads.grounding.box.0.weight"}
    model.save_pretrained(tmp_path)
    again: Any = AutoModelForImageTextToText.from_pretrained(tmp_path)
    heads.tell(again, tokenizer)
    assert stepped(again.eval(), [collate(packs)]) == CLOSE(stepped(model.eval(), [collate(packs)]), abs=1e-6)


def test_what_is_carried_moves_with_augmentation(drawn: Path) -> None:
    tokenizer = words()
    _, family = model_of(tokenizer)
    augment = {"flip": 1.0, "scale": [0.5, 0.8], "coordinates": "internvl"}
    for pack in stream(drawn, family, max_length=1024, augment=augment):
        for fields in pack.fields:
            height, width = fields["size"]
            assert 32 <= height < 64
            for box, (outline,) in zip(fields["boxes"], fields["polygons"], strict=True):
                xs, ys = outline[::2], outline[1::2]
                assert (min(xs), min(ys), max(xs), max(ys)) == CLOSE(box, abs=0.02)
                assert 0 <= box[0] < box[2] <= width


@pytest.mark.parametrize("name", FORMATS)
def test_coordinates_weigh_as_boxes_in_every_format(name: BoxFormat) -> None:
    tokenizer: Any = small_tokenizer()
    boxes_of = [("cat", [(10.0, 20.0, 50.0, 60.0)]), ("dog", [(0.0, 0.0, 30.0, 40.0)])]
    answer = f"Well, {format_objects(boxes_of, (100, 100), name)}"
    parts = (Text(text="Where?", role="user", train=False), Text(text=answer, role="assistant"))
    sample = Sample(key="a", parts=parts, origin=Origin(uri="", row=0))
    (found,) = encode([sample], tokenizer, get_template("basic", weights=Weights(box=2.0)))
    assert isinstance(found, Encoded)
    told = "".join(tokenizer.decode(found.ids[span.start : span.stop]) for span in found.spans if span.kind == "box")
    assert all(span.weight == 2 for span in found.spans if span.kind == "box")
    numbers = [text for each in boxes_of for text in digits(format_boxes(each[1], (100, 100), name))]
    assert [number for number in digits(told) if number] == numbers
    assert "Well" not in told


def digits(text: str) -> list[str]:
    return re.findall(r"\d+(?:\.\d+)?", text.replace("bbox_2d", ""))


def test_coordinates_are_tokens_of_their_own(drawn: Path) -> None:
    dataset = open_dataset(drawn)
    plain, told = (make(dataset, TokenizerSpec(vocab_size=300, coordinates=name)) for name in ("shikra", "florence2"))
    ids = told("cat<loc_12><loc_999>", add_special_tokens=False)["input_ids"]
    assert ids[-2:] == told.convert_tokens_to_ids(["<loc_12>", "<loc_999>"])
    assert (len(told) - len(plain), told.decode(ids, skip_special_tokens=True)) == (1000, "cat<loc_12><loc_999>")
    for name in FORMATS:
        written = format_objects([("a", [(0, 0, 9, 9)] * 2)], (10, 10), name)
        tags = re.findall(r"<[^<>]+>", written)
        assert set(tags) <= set(coordinate_tokens(name)), "all that a format writes in angles is a token"


def test_a_box_begins_where_its_mask_lies() -> None:
    """The mean place of a mask's probabilities and sides of sqrt(12) deviations, cell by cell in finer cells; a filled
    rectangle is its own extent; an MLP that says nothing leaves it so, and its gradient goes to the mask."""
    logits = torch.randn(5, 8, generator=torch.manual_seed(1), requires_grad=True)
    shares = logits.detach().double().sigmoid().numpy().repeat(40, 0).repeat(40, 1)
    y, x = np.mgrid[: shares.shape[0], : shares.shape[1]] + 0.5
    x, y = x / shares.shape[1], y / shares.shape[0]
    means = [float(np.average(each, weights=shares)) for each in (x, y)]
    sides = [
        float(np.sqrt(12 * np.average((each - mean) ** 2, weights=shares)))
        for each, mean in zip((x, y), means, strict=True)
    ]
    found = extent(logits)
    assert found.tolist() == CLOSE([*means, *sides], abs=1e-3)
    filled = torch.full((8, 8), -30.0)
    filled[2:4, 1:6] = 30
    assert extent(filled).tolist() == CLOSE([3.5 / 8, 3 / 8, 5 / 8, 2 / 8], abs=1e-5)
    nowhere = torch.full((4, 8), -300.0, requires_grad=True)  # whose probabilities are no float32 any more
    extent(nowhere).sum().backward()
    assert extent(nowhere).tolist() == CLOSE([0.5, 0.5, 1, 1], abs=1e-5)
    assert nowhere.grad is not None
    assert nowhere.grad.isfinite().all()
    head = GroundingHead(GroundingSpec(coordinates="internvl", hidden=8, masks=True, look=True), 6)
    last: Any = head.box[-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    box = head(torch.randn(1, 6), found[None])[0]
    assert box.tolist() == CLOSE(found.clamp(0.01, 0.99).tolist(), abs=1e-5)
    (gradient,) = torch.autograd.grad(box[0], logits)
    assert float(gradient[:, -1].max()) > 0 > float(gradient[:, 0].min())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"connector": {"kind": "adaptive_pool", "tokens": 4}}, "no grid"),
        ({"heads": {"grounding": {"coordinates": "qwen2_5_vl"}}}, "shares of the picture"),
        ({"heads": {"grounding": {"coordinates": "internvl", "look": True}}}, "it begins from masks"),
    ],
)
def test_what_a_head_cannot_do_is_said(change: dict[str, Any], message: str) -> None:
    told = {"kind": "native", "heads": {"grounding": {"coordinates": "internvl", "masks": True}}, **change}

    with pytest.raises((SpecError, ValueError), match=message):
        build_model(NativeSpec.model_validate(told), words(), seed=0)
    assert GroundingSpec(coordinates="internvl").masks is False
