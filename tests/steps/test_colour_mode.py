"""Kinds of pictures, and all brought to one mode."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdata.steps.colour_mode import ColourMode
from tests.decode.pictures import odd_kinds, photo, pillow, save
from tests.steps.given import build, image, record


def test_a_build(tmp_path: Path) -> None:
    grey = photo(64, 48, "L")
    tinted = np.asarray(grey.convert("RGB")).astype(np.int16) + np.array([0, 2, 0])
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    kinds = odd_kinds()
    data = {
        "colour": kinds["png rgb"],
        "colourless": save(Image.fromarray(tinted.clip(0, 255).astype(np.uint8)), "PNG"),
        "grey": kinds["png l"],
        "alpha": kinds["png rgba"],
        "palette": kinds["png p"],
        "cmyk": kinds["jpeg cmyk"],
        "sixteen_bit": save(deep, "PNG"),
    }
    records = [record(image(one)) for one in data.values()]
    built = build(tmp_path, records, [{"kind": "colour_mode", "to": "rgb"}])
    assert built.column("colour") == list(data)
    for one, sample in zip(data, built.samples, strict=True):
        made = Image.open(io.BytesIO(sample.media[0].data or b""))
        assert made.mode == sample.media[0].mode or one in ("colour", "colourless")
        assert made.mode == "RGB"
    assert np.array_equal(pillow(built.samples[3].media[0].data or b""), pillow(data["alpha"]))
    assert built.samples[0].media[0].data == data["colour"], "bytes stay where nothing is to do"
    rejecting = build(tmp_path, records, [{"kind": "colour_mode", "reject": ["colourless", "grey", "cmyk"]}], name="r")
    assert [row.detail for row in rejecting.ledger if row.reason == "colour_mode"] == ["colourless", "grey", "cmyk"]


def test_to_grey() -> None:
    from tests.steps.given import apply

    sample = apply(ColourMode(to="grey"), image(save(photo(64, 48), "PNG")))
    made = Image.open(io.BytesIO(sample.media[0].data or b""))  # type: ignore[union-attr]
    assert made.mode == "L"
    assert np.array_equal(np.asarray(made), np.asarray(photo(64, 48).convert("L")))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="reject"):
        ColourMode(reject=("gray",))  # type: ignore[arg-type]
