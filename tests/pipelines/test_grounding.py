"""`grounding.yaml` on photographs with boxes around what is in them, and the damage that such lists have."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from mmdata.boxes import parse_boxes
from tests.decode.pictures import SKIMAGE
from tests.pipelines.running import run

# Boxes (left, top, width, height) by eye, of scikit-image's photographs.
SEEN: dict[str, list[tuple[str, list[float]]]] = {
    "astronaut.png": [("face", [175, 60, 105, 140]), ("helmet", [370, 250, 140, 200]), ("flag", [0, 0, 120, 400])],
    "chelsea.png": [("eye", [145, 95, 45, 40]), ("eye", [235, 100, 45, 40]), ("nose", [175, 150, 50, 40])],
    "coffee.png": [("cup", [180, 60, 300, 260]), ("spoon", [60, 250, 120, 60])],
    "rocket.jpg": [("rocket", [285, 90, 70, 300]), ("tower", [340, 60, 130, 330])],
}
CATEGORIES = ["face", "helmet", "flag", "eye", "nose", "cup", "spoon", "rocket", "tower"]


def lists(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """COCO's two files: captions and instances of the same pictures."""
    folder.mkdir()
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []

    def listed(file: str, size: tuple[int, int], objects: list[tuple[str, list[float]]], *texts: str) -> None:
        number = len(images)
        images.append({"id": number, "file_name": file, "width": size[0], "height": size[1]})
        for name, box in objects:
            crowd = int(name.startswith("*"))
            category = CATEGORIES.index(name.strip("*"))
            boxes.append({"image_id": number, "bbox": box, "category_id": category, "iscrowd": crowd})
        captions.extend({"image_id": number, "caption": text} for text in texts)

    for name, objects in SEEN.items():
        picture = Image.open(SKIMAGE / name).convert("RGB")
        file = name.replace("png", "jpg")
        picture.save(folder / file, quality=90)
        listed(file, picture.size, objects, f"a photograph of {objects[0][0]} and more", "a picture")
    cup = Image.open(SKIMAGE / "coffee.png").convert("RGB")
    cup.resize((300, 200)).save(folder / "small.jpg", quality=90)  # of half the annotated size
    listed("small.jpg", cup.size, [("cup", [180, 60, 300, 260])])
    cup.crop((0, 0, 200, 400)).save(folder / "captioned.jpg", quality=90)
    listed("captioned.jpg", (200, 400), [], "half a cup")
    listed("gone.jpg", (600, 400), [("cup", [180, 60, 300, 260])], "a cup")
    cup.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", quality=90)
    listed("turned.jpg", cup.size, [("cup", [180, 60, 300, 260])])
    cup.resize((310, 210)).save(folder / "flat.jpg", quality=90)
    listed("flat.jpg", (310, 210), [("cup", [100, 100, 0, 50]), ("spoon", [305, 5, 5, 100])])
    cup.resize((330, 220)).save(folder / "crowd.jpg", quality=90)
    listed("crowd.jpg", (330, 220), [("*cup", [10, 10, 200, 200]), ("cup", [50, 50, 90, 90])])
    (folder / "rocket2.jpg").write_bytes((folder / "rocket.jpg").read_bytes())
    listed("rocket2.jpg", (640, 427), [("rocket", [285, 90, 70, 300])])
    categories = [{"id": at, "name": name} for at, name in enumerate(CATEGORIES)]
    return {"images": images, "annotations": captions}, {
        "images": images,
        "annotations": boxes,
        "categories": categories,
    }


def test_boxes_are_asked_for(tmp_path: Path) -> None:
    paths = []
    for name, value in zip(("captions", "instances"), lists(tmp_path / "images"), strict=True):
        paths.append(str(tmp_path / f"{name}.json"))
        Path(paths[-1]).write_text(json.dumps(value))
    sources = (f"source.annotations={json.dumps(paths)}", f"source.images={tmp_path / 'images'}")
    made = run("grounding.yaml", tmp_path / "out", *sources)
    assert made.reasons == [
        *([""] * 6),
        *("not_found", "boxes_size", "instruct_no_box", "instruct_no_box", "exact_dup"),
    ]
    turns = Counter(entry.partition("/")[0] for sample in made.samples for entry in sample.meta["instruct"])
    assert {"grounding", "referring"} < set(turns) <= {"grounding", "referring", "detection", "caption"}
    assert sum(turns.values()) >= 2 * len(made.samples)
    boxes = 0  # in texts
    for sample in made.samples:
        (media,) = sample.media
        assert media.height is not None
        assert media.width is not None
        size = (media.height, media.width)
        wanted = list(zip(sample.meta.get("labels", ()), sample.meta.get("boxes", ()), strict=True))
        for text in sample.texts:
            for one in parse_boxes(text.text, size, "qwen3_vl"):
                boxes += 1
                near = [
                    label
                    for label, box in wanted
                    if all(abs(a - b) <= max(size) / 1000 for a, b in zip(one.box, box, strict=True))
                ]
                assert near
                assert one.phrase in (None, *near)
    assert boxes >= 8
    small = made.samples[4].meta["boxes"][0]
    assert small == [90, 30, 240, 160], "annotated at twice the size"
