"""Pictures that another dataset has: by bytes, by pixels, nearly."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.errors import SpecError
from tests.building import picture
from tests.decode.pictures import save
from tests.steps.given import build, image, record


def test_a_build_against_another(tmp_path: Path) -> None:
    pictures = [picture(number) for number in range(6)]
    first = [record(image(save(one, "PNG")), "x") for one in pictures[:4]]
    build(tmp_path, first, [{"kind": "exact_dedup"}, {"kind": "near_dup"}], name="first", unit_rows=2)
    second = [
        record(image(save(pictures[4], "PNG")), "new"),
        record(image(save(pictures[3], "PNG")), "same bytes"),
        record(image(save(pictures[2], "WEBP", lossless=True)), "same pixels"),
        record(image(save(pictures[0], "JPEG", quality=50)), "near"),
        record(image(save(pictures[5], "PNG")), "new"),
        record("no picture"),
    ]
    step = {"kind": "dedup_against", "dataset": "first", "of": ["bytes", "pixels", "near"]}
    built = build(tmp_path, second, [step], name="second", workers=2, unit_rows=2)
    assert built.reasons == ["", "dup_against", "dup_against", "dup_against", "", ""]
    assert [row.state for row in built.ledger[1:4]] == ["duplicate"] * 3
    assert built.details[1:3] == ["same bytes as 000000003 of first", "same pixels as 000000002 of first"]
    assert built.details[3].startswith("distance ")
    only = build(tmp_path, second, [{"kind": "dedup_against", "dataset": "first"}], name="only")
    assert only.reasons == ["", "dup_against", "", "", "", ""]


def test_what_the_other_index_lacks(tmp_path: Path) -> None:
    records = [record(image(save(picture(0), "PNG")))]
    build(tmp_path, records, [{"kind": "probe"}], name="bare")
    with pytest.raises(SpecError, match="no exact_bytes; it was built without exact_dedup"):
        build(tmp_path, records, [{"kind": "dedup_against", "dataset": "bare"}])
    with pytest.raises(SpecError, match="dataset: "):
        build(tmp_path, records, [{"kind": "dedup_against", "dataset": str(tmp_path)}], name="none")
    step = {"kind": "dedup_against", "dataset": "bare", "root_digest": "00"}
    with pytest.raises(SpecError, match="root_digest"):
        build(tmp_path, records, [step], name="changed")
