"""Names of files, and captions that only look a little like one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.steps.caption_filename import why_name
from tests.decode.pictures import photo, save
from tests.steps.given import build, image, record


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("IMG_2041.JPG", "extension"),
        ("my summer house.png", "extension"),
        ("DSC00017", "camera"),
        ("IMG-20190301-WA0004", "camera"),
        ("WhatsApp Image 2021-03-04 at 10.11.12", "camera"),
        ("Screenshot 2020-01-02", "camera"),
        ("image (3)", "camera"),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", "uuid"),
        ("d41d8cd98f00b204e9800998ecf8427e", "hash"),
        ("1920x1080", "numbers"),
        ("A photo of 3 dogs", None),
        ("Photo of DSC00017", None),
        ("facade", None),
        ("Read the file at a/b.jpg for more about the old town hall", None),
        ("", None),
    ],
)
def test_names(text: str, why: str | None) -> None:
    assert why_name(text) == why


def test_a_build(tmp_path: Path) -> None:
    data = save(photo(16, 16), "PNG")
    names = ["red_car_02", "Red car, 2002", "a red car", "photo_17.png"]
    records = [record(image(data, "http://a.org/x/Red-Car-02.jpg"), name) for name in names]
    built = build(tmp_path, records, [{"kind": "caption_filename"}])
    assert built.reasons == ["caption_filename", "", "", "caption_filename"]
    assert built.details[::3] == ["address: red_car_02", "extension: photo_17.png"]
