"""Captions of any picture, and descriptions that share words with them."""

from __future__ import annotations

from pathlib import Path

from tests.steps.given import build, record

BOILERPLATE = [
    "Image",
    "Photo 3 of 12",
    "product image 2",
    "Click here to enlarge!",
    "Click on the image to see a larger version",
    "No image available",
    "image not found",
    "no description available",
    "View full size",
    "Read more...",
    "Photo credit: Ann Example",
    "Untitled",
    "loading",
    "Posted on 3 May 2019",
    "All rights reserved.",
    "our usual caption",
]
DESCRIPTIONS = [
    "home sweet home embroidered on a pillow",
    "view from the bridge",
    "a photo by the lake",
    "search dogs at work",
    "photo gallery wall with black frames above a sofa",
    "children play in the garden",
    "An arrow in a target",
    "",
]


def test_a_build(tmp_path: Path) -> None:
    records = [record(text) for text in BOILERPLATE + DESCRIPTIONS]
    built = build(tmp_path, records, [{"kind": "caption_boilerplate", "phrases": ["Our usual caption."]}])
    wrong = [
        (text, reason)
        for text, reason in zip(BOILERPLATE + DESCRIPTIONS, built.reasons, strict=True)
        if (reason == "caption_boilerplate") != (text in BOILERPLATE)
    ]
    assert wrong == []
    assert built.details[1] == "Photo 3 of 12"
