"""COCO's annotation files as a source: captions, boxes, what belongs to no picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmdata.errors import DataError
from mmdata.sources.coco import Coco
from tests.dataset_fixture import jpeg
from tests.decode.pictures import pillow
from tests.sources.run import built, records, states


def lay(tmp_path: Path) -> dict[str, Any]:
    """Three pictures, of which one file is missing; captions and instances apart, as COCO has them."""
    (tmp_path / "val").mkdir()
    images = []
    for number in range(4):
        data, _, height, width = jpeg(number)
        if number != 2:
            (tmp_path / "val" / f"{number:012d}.jpg").write_bytes(data)
        images.append({"id": 10 + number, "file_name": f"{number:012d}.jpg", "height": height, "width": width})
    captions = [
        {"id": 1, "image_id": 10, "caption": "a first"},
        {"id": 2, "image_id": 11, "caption": "another"},
        {"id": 3, "image_id": 10, "caption": "a second"},
        {"id": 4, "image_id": 12, "caption": "of a missing file"},
        {"id": 5, "image_id": 99, "caption": "of no picture"},
        {"id": 6, "image_id": 11},
    ]
    boxes = [
        {"id": 7, "image_id": 10, "bbox": [1.5, 2, 10, 20], "category_id": 3, "iscrowd": 0, "segmentation": []},
        {"id": 8, "image_id": 10, "bbox": [0, 0, 5, 5], "category_id": 1, "iscrowd": 1},
        {"id": 9, "image_id": 10, "bbox": [1, 2], "category_id": 1},
    ]
    categories = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}]
    (tmp_path / "captions.json").write_text(json.dumps({"info": {}, "images": images, "annotations": captions}))
    # Annotations may come before what they are of.
    instances = {"annotations": boxes, "images": images, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    files = [str(tmp_path / "captions.json"), str(tmp_path / "instances.json")]
    return {"kind": "coco", "annotations": files, "images": str(tmp_path / "val")}


def test_captions_and_boxes_are_built(tmp_path: Path) -> None:
    source = lay(tmp_path)
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == [
        *("ok", "ok", "ok", "failed_permanent:not_found", "filtered:no_annotation"),
        *("failed_permanent:unknown_image", "failed_permanent:bad_record", "failed_permanent:bad_record"),
    ]
    assert [sample.texts[0].text for sample in dataset] == ["a first", "a second", "another"]
    first, second, third = dataset
    assert first.media[0].data == second.media[0].data == jpeg(0)[0]
    assert first.meta["boxes"] == [[1.5, 2.0, 11.5, 22.0], [0.0, 0.0, 5.0, 5.0]]
    assert (first.meta["labels"], first.meta["crowds"]) == (["car", "person"], [1])
    assert "boxes" not in third.meta
    assert (third.meta["image_id"], third.meta["height"]) == (11, third.media[0].height)
    assert len(records(source)) == 8
    assert "image_id 99" in rows[5].detail


def test_odd_values_cost_their_own_record_and_can_be_written(tmp_path: Path) -> None:
    images = [{"id": "\ud800", "file_name": "\ud800.jpg"}, {"id": 2, "file_name": "b.jpg"}]
    notes = [
        {"image_id": "\ud800", "bbox": [0, 0, 1, 1], "category_id": {"a": 1}},
        {"image_id": 2, "bbox": [0, 0, 1, 1], "category_id": 1},
        {"image_id": 2, "bbox": [0, 0, 1, 1], "category_id": 7},
        {"image_id": "x\ud800", "caption": "of no picture"},
    ]
    values = {"images": images, "annotations": notes, "categories": [{"id": 1, "name": "\ud800"}, {"id": 7}]}
    (tmp_path / "c.json").write_text(json.dumps(values))
    first, second, lost = records({"kind": "coco", "annotations": [str(tmp_path / "c.json")], "images": str(tmp_path)})
    assert first.sample.media[0].uri == str(tmp_path / "?.jpg")
    assert (first.sample.meta["image_id"], first.sample.meta["labels"]) == ("?", ["{'a': 1}"])
    assert second.sample.meta["labels"] == ["?", "7"]
    assert lost.drop
    assert (lost.drop.reason, "x?" in lost.drop.detail) == ("unknown_image", True)


def test_captions_may_be_one_or_all(tmp_path: Path) -> None:
    source = lay(tmp_path)

    def texts(captions: str) -> list[list[str]]:
        return [[text.text for text in found.sample.texts] for found in records({**source, "captions": captions})][:2]

    assert texts("first") == [["a first"], ["another"]]
    assert texts("all") == [["a first", "a second"], ["another"]]


def test_without_a_folder_pictures_are_fetched(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg", "coco_url": "http://x.org/a.jpg"}, {"id": 2, "file_name": "../b.jpg"}]
    notes = [{"image_id": number, "caption": "c"} for number in (1, 2)]
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": notes}))
    first, second = Coco(annotations=(str(tmp_path / "c.json"),)).open().records()
    assert first.sample.media[0].uri == "http://x.org/a.jpg"
    assert second.drop
    assert (second.drop.reason, "source.images" in second.drop.detail) == ("bad_url", True)
    escaped = list(Coco(annotations=(str(tmp_path / "c.json"),), images=str(tmp_path)).open().records())[1]
    assert escaped.drop
    assert escaped.drop.reason == "path_escape"


@pytest.mark.parametrize("text", ['{"images": [{"id": 1}', "[]", '{"images": [], "annotations": []}', "{", '{"a" 1}'])
def test_what_is_not_cocos_form_is_one_clear_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(DataError, match=r"c\.json"):
        list(Coco(annotations=(str(tmp_path / "c.json"),)).open().records())


PROBE = {"kind": "probe"}
HALF = {"kind": "resize", "mode": "shortest", "size": 30, "decode": "exact"}


@pytest.mark.parametrize(
    "steps",
    [
        [PROBE],
        [{**PROBE, "orientation": "keep"}],
        [{**PROBE, "verify": "header"}],
        [PROBE, HALF],
        [HALF],
        [PROBE, {"kind": "boxes"}, HALF],
        [{"kind": "boxes"}, PROBE],
        [PROBE, {"kind": "boxes", "size": ["height", "width"]}],
        [PROBE, {"kind": "aspect_bucket", "buckets": [[64, 64]], "fit": "crop", "upscale": True}],
    ],
)
@pytest.mark.parametrize("format", ["jpeg", "tiff"])
def test_boxes_lie_on_the_picture_as_it_is_seen(tmp_path: Path, steps: list[dict[str, Any]], format: str) -> None:
    """Annotated on the stored pixels, of which EXIF turns some and a resize has doubled others, some both."""
    stored = np.zeros((61, 83, 3), np.uint8)
    stored[10:40, 30:60] = 255
    images = []
    (tmp_path / "val").mkdir()
    for orientation in range(5, 9):
        for times in (1, 2):
            exif = Image.Exif()
            exif[0x112] = orientation
            picture = Image.fromarray(stored).resize((83 * times, 61 * times), Image.Resampling.NEAREST)
            name = f"{orientation}-{times}.{format}"
            picture.save(tmp_path / "val" / name, exif=exif)
            images.append({"id": len(images), "file_name": name, "height": 61, "width": 83})
    images.append({"id": 8, "file_name": "5-1." + format, "height": 61, "width": 161})
    boxes = [{"image_id": image["id"], "bbox": [30, 10, 30, 30], "category_id": 1} for image in images]
    (tmp_path / "i.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": []}))
    source = {"kind": "coco", "annotations": [str(tmp_path / "i.json")], "images": str(tmp_path / "val")}
    dataset, rows = built(tmp_path / "out", source, steps=steps)
    assert states(rows) == ["ok"] * 8 + ["filtered:boxes_size"]
    for sample in dataset:
        ((left, top, right, bottom),) = sample.meta["boxes"]
        tall, wide = np.nonzero(pillow(sample.media[0].data or b"").mean(-1) > 128)
        seen = [wide.min(), tall.min(), wide.max() + 1, tall.max() + 1]
        assert np.abs(np.subtract(seen, [left, top, right, bottom])).max() <= 1, sample.key
