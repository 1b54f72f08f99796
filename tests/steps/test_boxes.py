"""Boxes of every layout in one form, and moved by the steps that resize; against pictures in which they can be seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps import _boxes
from mmdata.steps.aspect_bucket import AspectBucket
from mmdata.steps.boxes import Boxes
from mmdata.steps.resize import Resize
from mmdata.types import Drop, Media, Origin, Sample
from tests.decode.pictures import pillow, save
from tests.steps.given import build, image, record

SIZE = (120, 160)
BOX = [40.0, 30.0, 120.0, 90.0]
"""The same box, of a picture of 160 x 120, in every layout and scale."""
WRITTEN: dict[tuple[str, str], list[float]] = {
    ("xyxy", "pixels"): BOX,
    ("xywh", "pixels"): [40, 30, 80, 60],
    ("cxcywh", "pixels"): [80, 60, 80, 60],
    ("yxyx", "pixels"): [30, 40, 90, 120],
    ("xyxy", "unit"): [0.25, 0.25, 0.75, 0.75],
    ("xywh", "thousandths"): [250, 250, 500, 500],
}


def drawn(size: tuple[int, int], box: list[float]) -> Image.Image:
    """A white picture with a black box."""
    pixels = np.full((*size, 3), 255, np.uint8)
    left, top, right, bottom = (round(value) for value in box)
    pixels[max(top, 0) : bottom, max(left, 0) : right] = 0
    return Image.fromarray(pixels)


def seen(pixels: np.ndarray) -> list[int]:
    """The box of what is black."""
    rows, columns = np.nonzero(pixels[..., 0] < 128)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def sample(picture: Image.Image, **meta: Any) -> Sample:
    media = Media(kind="image", data=save(picture, "PNG"))
    return Sample(key="a", parts=(media,), meta=meta, origin=Origin(uri="", row=0))


def moved(step: Resize | AspectBucket, size: tuple[int, int], box: list[float]) -> tuple[list[int], list[float]]:
    """Where the box is seen afterwards, and where its column says that it is, cut to the picture."""
    answer = step.apply(sample(drawn(size, box), boxes=[box]), Work())
    assert isinstance(answer, Sample)
    pixels = pillow(answer.media[0].data or b"")
    left, top, right, bottom = answer.meta["boxes"][0]
    found = _boxes.cut((left, top, right, bottom), (pixels.shape[0], pixels.shape[1]))
    assert found is not None
    return seen(pixels), list(found)


@pytest.mark.parametrize(("layout", "scale"), WRITTEN)
def test_every_layout_is_one_form(layout: Any, scale: Any) -> None:
    step = Boxes(layout=layout, scale=scale, column="given", labels=None)
    answer = step.apply(sample(drawn(SIZE, BOX), given=[WRITTEN[layout, scale]]), Work())
    assert isinstance(answer, Sample)
    assert answer.meta["boxes"] == [pytest.approx(BOX)]


def test_boxes_of_a_build_end_under_their_reasons(tmp_path: Path) -> None:
    """Objects as detection datasets hold them, with numbers for labels; annotated at twice the size."""
    picture = image(save(drawn(SIZE, BOX), "PNG"))
    good = {"bbox": [[80, 60, 160, 120], [300, 200, 100, 100], [0, 0, 1, 1]], "category": [1, 0, 0]}
    records = [
        record(picture, objects=good, h=240, w=320, crowds=[1]),
        record(picture, objects=[{"bbox": [80, 60, 160, 120], "category": 0}], h=240, w=320),
        record(picture, h=240, w=320),
        record(picture, objects={"bbox": [], "category": []}, h=240, w=320),
        record(picture, objects={"bbox": [[5, 5, 0, 9]], "category": [0]}, h=240, w=320),
        record(picture, objects=good, h=320, w=240),
        record(picture, objects={"bbox": [[1, 2, 3]], "category": [0]}, h=240, w=320),
        record(picture, objects={"bbox": [[1, 2, 3, "4"]], "category": [0]}, h=240, w=320),
        record(picture, objects={"bbox": [[1, 2, 3, 4]], "category": [2]}, h=240, w=320),
        record(picture, objects={"bbox": [[1, 2, 3, 4]], "category": []}, h=240, w=320),
        record(picture, objects=good, h=None, w=320),
        record(picture, picture, objects=good, h=240, w=320),
    ]
    step = {"kind": "boxes", "column": "objects.bbox", "labels": "objects.category", "names": ["cat", "dog"]}
    step |= {"layout": "xywh", "size": ["h", "w"]}
    made = build(tmp_path, records, [{"kind": "probe"}, step])
    assert made.reasons == ["", "", *["boxes"] * 3, "boxes_size", *["bad_box"] * 5, "boxes_picture"]
    assert [row.state for row in made.ledger][6] == "failed_permanent"
    first, second = made.samples
    assert first.meta["boxes"] == [BOX, [150.0, 100.0, 160.0, 120.0]]
    assert (first.meta["labels"], first.meta["crowds"]) == (["dog", "cat"], [1])
    assert (second.meta["boxes"], second.meta["labels"]) == ([BOX], ["cat"])
    assert "annotated on 240x320, the picture is 160x120" in made.details[5]
    kept = build(tmp_path, records[2:5], [{"kind": "probe"}, {**step, "missing": "keep"}], name="kept")
    assert kept.reasons == ["", "", ""]
    assert kept.column("boxes") == [None, None, []]


@settings(deadline=None, max_examples=25)
@given(st.integers(60, 200), st.integers(60, 200), st.integers(0, 40), st.integers(0, 40), st.data())
def test_boxes_move_with_the_picture(height: int, width: int, left: int, top: int, data: st.DataObject) -> None:
    """Every mode of `resize`, and buckets: where the box is seen is where the column says, to within a pixel."""
    box = [float(left), float(top), float(width - 15), float(height - 15)]
    mode = data.draw(st.sampled_from(["shortest", "longest", "border", "center_crop", "cap_pixels", "bucket"]))
    step: Resize | AspectBucket
    if mode == "bucket":
        step = AspectBucket(buckets=((48, 64), (64, 48), (56, 56)), fit="crop", upscale=True)
    else:
        up = data.draw(st.booleans())
        step = Resize(mode=mode, size=data.draw(st.sampled_from([50, 97, 160])), pixels=6000, upscale=up)
    there, said = moved(step, (height, width), box)
    assert all(abs(one - other) <= 1.01 for one, other in zip(there, said, strict=True)), (there, said)


def test_what_is_left_alone() -> None:
    """Bytes that stay as they are, columns that hold no boxes, other columns, several pictures."""
    picture = drawn(SIZE, BOX)
    step = Resize(mode="shortest", size=60)
    for meta in ({"boxes": "none"}, {"boxes": [[1, 2]]}, {"other": [BOX]}):
        answer = step.apply(sample(picture, **meta), Work())
        assert isinstance(answer, Sample)
        assert answer.meta == meta
    two = sample(picture, boxes=[BOX])
    two = Sample(key="a", parts=two.parts * 2, meta=two.meta, origin=two.origin)
    for one, wanted in ((step, BOX), (Resize(mode="shortest", size=60, boxes=None), BOX)):
        answer = one.apply(two if one is step else sample(picture, boxes=[BOX]), Work())
        assert isinstance(answer, Sample)
        assert answer.meta["boxes"] == [wanted]
    same = Resize(mode="shortest", size=500).apply(sample(picture, boxes=[BOX]), Work())
    assert isinstance(same, Sample)
    assert same.meta["boxes"] == [BOX]


def test_small_boxes_are_left_out() -> None:
    boxes = [BOX, [0, 0, 9, 50], [0, 0, 10, 10]]
    step = Boxes(min_side=10)
    answer = step.apply(sample(drawn(SIZE, BOX), boxes=boxes, labels="a phrase"), Work())
    assert isinstance(answer, Sample)
    assert answer.meta["boxes"] == [BOX, [0, 0, 10, 10]]
    assert answer.meta["labels"] == ["a phrase"] * 2
    none = step.apply(sample(drawn(SIZE, BOX), boxes=boxes[1:2], labels=["a"]), Work())
    assert isinstance(none, Drop)
    assert none.detail == "of 1 boxes none has an area of 10 pixels a side"
    with pytest.raises(DataError, match="a label for each of 2 boxes"):
        _boxes.labels(["one"], 2)
