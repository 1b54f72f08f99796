"""Augmentation: pixels, boxes, masks and written coordinates move together, keyed and inside their bounds."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
import torchvision.transforms.v2.functional as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision import tv_tensors

from mmdata.boxes import BoxFormat, format_objects
from mmdata.rng import generator
from mmdata.types import Augmented, Colour, Crop, Flip, Media, Origin, Pad, Resize, Sample, Text
from mmdata.views.augment import Augment, augment, geometry, random_crop
from mmdata.views.geometry import boxes_in, move_mask, movement, rewrite
from mmdata.views.pixels import apply
from tests.dataset_fixture import photograph

OPS = (Crop(3, 5, 60, 80), Flip(), Resize(90, 40), Pad(1, 2, 3, 4))


def test_boxes_move_as_torchvision_moves_them() -> None:
    boxes = [[10.0, 12.0, 40.0, 33.0], [0.0, 0.0, 100.0, 70.0]]
    theirs = tv_tensors.BoundingBoxes(torch.tensor(boxes), format="XYXY", canvas_size=(70, 100))
    theirs = v2.functional.crop(theirs, 3, 5, 60, 80)
    theirs = v2.functional.horizontal_flip(theirs)
    theirs = v2.functional.resize(theirs, [90, 40])
    theirs = v2.functional.pad(theirs, [2, 1, 4, 3])
    theirs = v2.functional.clamp_bounding_boxes(theirs)
    move = movement((70, 100), OPS)
    assert move.after == (94, 46)
    # torchvision cuts boxes to the picture before it pads; what reaches beyond the crop is cut to its border.
    ours = np.array([move.box(box) for box in boxes])
    inside = np.array([movement((70, 100), OPS[:3]).box(box) for box in boxes]) + np.array([2, 1, 2, 1])
    np.testing.assert_allclose(inside, theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours[0], theirs.numpy()[0], atol=1e-4)


def test_a_mask_moves_like_the_pixels() -> None:
    mask = (photograph("china")[:70, :100, 0] > 120).astype(np.uint8)
    theirs = tv_tensors.Mask(torch.from_numpy(mask)[None])
    theirs = tv.pad(tv.resize(tv.horizontal_flip(tv.crop(theirs, 3, 5, 60, 80)), [30, 40]), [2, 1, 4, 3])
    ours = move_mask(mask, (Crop(3, 5, 60, 80), Flip(), Resize(30, 40), Pad(1, 2, 3, 4)))
    at = np.mgrid[:30, :40] * 2 + 1  # nearest of an even factor: either of two pixels is nearest; ours the right lower
    flipped = mask[3:63, 5:85][:, ::-1]
    assert np.array_equal(ours[1:31, 2:42], flipped[at[0], at[1]])
    assert ours.shape == tuple(theirs.shape[1:])


def test_colours_are_torchvisions() -> None:
    image = torch.from_numpy(photograph("china")[:50, :60].copy()).permute(2, 0, 1)
    theirs = tv.adjust_hue(tv.adjust_saturation(tv.adjust_contrast(tv.adjust_brightness(image, 1.2), 0.7), 1.5), -0.1)
    ours = apply(image.permute(1, 2, 0).numpy(), (Colour(1200, 700, 1500, -100),))
    assert torch.equal(ours, theirs)


number = st.integers(0, 999)
box = st.tuples(number, number, number, number)


@given(box, st.integers(20, 500), st.integers(20, 500), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_crop_holds_its_boxes_and_coordinates_follow(
    values: tuple[int, ...], height: int, width: int, seed: int
) -> None:
    x0, x1 = sorted(values[:2])
    y0, y1 = sorted(values[2:])
    text = f"the <ref>cat</ref><box>({x0},{y0}),({x1},{y1})</box> sits"
    rules = Augment(crop=(0.2, 0.9), flip=0.5, scale=(0.8, 1.2), coordinates="bins")
    sample = Sample(
        key="a",
        parts=(Media(kind="image", height=height, width=width), Text(text=text)),
        origin=Origin(uri="t", row=0),
    )
    changed = augment(sample, rules, generator(seed))
    assert changed == augment(sample, rules, generator(seed))
    if not isinstance(changed.media[0], Augmented):
        assert changed == sample
        return
    (medium,) = changed.media
    assert isinstance(medium, Augmented)
    assert medium.stored == (height, width)
    move = movement((height, width), [op for op in medium.before if not isinstance(op, Colour)])
    assert move.after == (medium.height, medium.width)
    (before,) = boxes_in(text, (height, width), "bins")
    moved = move.box(before)
    unclipped = (*move.point(before[0], before[1]), *move.point(before[2], before[3]))
    assert min(unclipped) >= -1e-9
    assert max(unclipped[::2]) <= move.after[1] + 1e-9
    assert max(unclipped[1::2]) <= move.after[0] + 1e-9
    (written,) = boxes_in(changed.texts[0].text, move.after, "bins")
    np.testing.assert_allclose(written, moved, atol=max(move.after) / 1000 + 1e-6)


@pytest.mark.parametrize("coordinates", ["thousandths", "bins", "unit", "pixels"])
def test_standing_still_rewrites_nothing(coordinates: str) -> None:
    texts = {
        "unit": "x <box>0.100,0.25,0.9,1.0</box> 7 <point>(0.5, 0.125)</point>",
        "pixels": "x <box>[[1, 2, 30, 40]]</box> <quad>(1,2),(3,4),(5,6),(7,8)</quad> 12 <box>nothing</box>",
    }
    text = texts.get(coordinates, "<ref>7 cats</ref><box>(0,1),(999,997)</box><|box_start|>(3,4),(5,6)<|box_end|> 5,6")
    for size in [(41, 77), (1000, 1000), (2047, 50)]:
        assert rewrite(text, movement(size, ()), coordinates) == text  # type: ignore[arg-type]


@given(
    box, st.sampled_from(["paligemma", "florence2", "kosmos2", "qwen3_vl", "internvl", "shikra"]), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_boxes_in_the_formats_of_models_follow(values: tuple[int, ...], name: BoxFormat, seed: int) -> None:
    """What the step `instruct` writes: a crop holds it, and the numbers are those of the box where it then is."""
    height, width = 300, 400
    x0, x1 = sorted(value * width / 999 for value in values[:2])
    y0, y1 = sorted(value * height / 999 for value in values[2:])
    text = format_objects([("a cat", [(x0, y0, x1, y1)])], (height, width), name)
    before = boxes_in(text, (height, width), name)
    sample = Sample(
        key="a",
        parts=(Media(kind="image", height=height, width=width), Text(text=text)),
        origin=Origin(uri="t", row=0),
    )
    changed = augment(sample, Augment(crop=(0.3, 0.9), flip=0.5, coordinates=name), generator(seed))
    medium = changed.media[0]
    ops = medium.before if isinstance(medium, Augmented) else ()
    move = movement((height, width), ops)
    after = boxes_in(changed.texts[0].text, move.after, name)
    if name == "shikra":
        assert len(before) == len(after) == 1
    step = max(move.after) * (1 / 16 if name == "kosmos2" else 2 / 999)
    for one, other in zip(after, before, strict=True):
        np.testing.assert_allclose(one, move.box(other), atol=step + 1e-6)


def test_pixels_as_a_model_sees_them_cannot_follow() -> None:
    with pytest.raises(ValidationError, match="qwen2_5_vl counts pixels"):
        Augment(flip=0.5, coordinates="qwen2_5_vl")


def test_texts_of_sides_and_several_pictures_keep_their_geometry() -> None:
    image = Media(kind="image", height=100, width=100)
    origin = Origin(uri="t", row=0)
    always = Augment(flip=1.0)
    said = Sample(key="a", parts=(image, Text(text="The dog on the Left.")), origin=origin)
    assert augment(said, always, generator(1)) == said
    plain = replace_text(said, "The leftover dog.")
    assert augment(plain, always, generator(1)).media[0].before == (Flip(),)  # type: ignore[attr-defined]
    two = Sample(key="a", parts=(image, image, Text(text="<box>(1,2),(3,4)</box>")), origin=origin)
    assert augment(two, Augment(crop=(0.3, 0.5), flip=1.0), generator(1)) == two


@pytest.mark.parametrize(
    ("text", "flips"),
    [
        *(
            (text, False)
            for text in ("the leftmost man", "her right-hand side", "it turns clockwise", "die linke Katze")
        ),
        *((text, False) for text in ("à gauche du chien", "左边的猫", "кошка слева", "왼쪽 고양이")),
        *((text, True) for text in ("a bright, upright man", "leftovers", "clocks")),
    ],
)
def test_words_for_sides(text: str, flips: bool) -> None:
    said = replace_text(
        Sample(key="a", parts=(Media(kind="image", height=9, width=9),), origin=Origin(uri="t", row=0)), text
    )
    assert (augment(said, Augment(flip=1.0), generator(1)) != said) == flips


@pytest.mark.parametrize(
    ("meta", "moves"),
    [
        ({"boxes": None, "polygons": None}, True),
        ({"boxes": []}, True),
        *(
            ({"boxes": boxes}, False)
            for boxes in ("x", 3, [[1, 2, 3]], [None], [[1, 2, 3, None]], [[0, 0, 1, float("nan")]])
        ),
        *(({"polygons": outlines}, False) for outlines in ("x", [[[1, 2, 3]]], [[1, 2]])),
    ],
)
def test_boxes_that_are_none_end_no_run(meta: dict[str, Any], moves: bool) -> None:
    """A column of a table may hold nulls, or what it likes: the picture then keeps its geometry."""
    image = Media(kind="image", height=100, width=100)
    sample = Sample(key="a", parts=(image,), meta=meta, origin=Origin(uri="t", row=0))
    changed = augment(sample, Augment(flip=1.0), generator(1))
    assert (changed != sample) == moves


def replace_text(sample: Sample, text: str) -> Sample:
    return Sample(key=sample.key, parts=(*sample.media, Text(text=text)), origin=sample.origin)


def test_draws_cover_their_ranges() -> None:
    rules = Augment(crop=(0.25, 0.5), scale=(0.8, 1.2))
    shares, factors, places = [], [], set()
    for seed in range(400):
        ops = geometry((200, 300), [], rules, generator(seed))
        crop = ops[0]
        assert isinstance(crop, Crop)
        shares.append(crop.height * crop.width / 60_000)
        places.add((crop.top // 60, crop.left // 60))
        factors += [op.width / crop.width for op in ops if isinstance(op, Resize)]
    assert 0.24 < min(shares) < 0.27
    assert 0.48 < max(shares) < 0.51
    assert 0.79 < min(factors) < 0.81
    assert 1.19 < max(factors) < 1.21
    assert len(places) > 4
    whole = random_crop((100, 100), [(0, 0, 100, 100)], (0.2, 0.4), (1, 1), generator(0))
    assert whole == Crop(0, 0, 100, 100)


def test_wrong_ranges_are_refused() -> None:
    for wrong in ({"crop": (0.5, 1.5)}, {"scale": (1.2, 0.8)}, {"flip": 2.0}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Augment.model_validate(wrong)
    assert re.search("crop", Augment.model_json_schema()["properties"]["crop"]["description"])


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("<point>(100,200),(900,300)</point>", "<point>(900,200),(100,300)</point>"),
        ("<points>(100,200),(900,100)</points>", "<points>(900,200),(100,100)</points>"),
        ("<box>[[100,200,300,400],[5,6,7,8]]</box>", "<box>[[700,200,900,400],[993,6,995,8]]</box>"),
        ("<quad>(1,2),(3,4),(5,6),(7,8)</quad>", "<quad>(999,2),(997,4),(995,6),(993,8)</quad>"),
        ("<box>[-5,20,30,40]</box>", "<box>[970,20,1000,40]</box>"),
    ],
)
def test_points_keep_their_order_and_every_box_its_corners(text: str, mirrored: str) -> None:
    (moved,) = augment(one({}, text), Augment(flip=1), generator(0, "f")).texts
    assert moved.text == mirrored


@pytest.mark.parametrize(
    "text", ["the leftmost cat", "a right-hand door", "turn anticlockwise", "Links steht er.", "左边"]
)
def test_sides_are_known_in_other_words(text: str) -> None:
    sample = one({}, text)
    assert augment(sample, Augment(flip=1), generator(0, "f")) == sample


@pytest.mark.parametrize(
    "meta",
    [
        {"boxes": [[1, 2, None, 4]]},
        {"boxes": [[float("nan")] * 4]},
        {"boxes": [[1, 2, 3]]},
        {"boxes": "abc"},
        {"boxes": [["1", "2", "3", "4"]]},
        {"boxes": [[1, 2, 30, 40]], "polygons": [[[1, 2, 3]]]},
    ],
    ids=str,
)
def test_what_is_no_box_keeps_its_picture_still(meta: dict[str, Any]) -> None:
    sample = one(meta, "a cat")
    assert augment(sample, Augment(flip=1, crop=(0.5, 0.6)), generator(0, "f")) == sample


def test_none_for_boxes_is_none() -> None:
    """As a table says of a row without."""
    found = augment(one({"boxes": None, "polygons": None}, "a cat"), Augment(flip=1), generator(0, "f"))
    assert found.meta == {"boxes": None, "polygons": None}
    found = augment(one({"boxes": [[0, 0, 10, 10]], "polygons": [None]}, "a cat"), Augment(flip=1), generator(0, "f"))
    assert found.meta == {"boxes": [[190, 0, 200, 10]], "polygons": [None]}


def one(meta: dict[str, Any], text: str) -> Sample:
    parts = (Media(kind="image", height=100, width=200), Text(text=text))
    return Sample(key="k", parts=parts, meta=meta, origin=Origin(uri="tests", row=0))
