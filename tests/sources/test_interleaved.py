"""Documents as a source: OBELICS' parallel lists and MMC4's matches, in lines and in Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata.errors import SpecError
from mmdata.sources.interleaved import Interleaved
from mmdata.spec import Record
from mmdata.types import Media
from tests.dataset_fixture import jpeg
from tests.sources.run import built, records, states

OBELICS: list[dict[str, Any]] = [
    {"images": [None, "1.jpg", None, "2.jpg"], "texts": ["Before.", None, "Between.", None], "url": "http://x.org"},
    {"images": [None, "1.jpg"], "texts": ["one"]},
    {"images": ["none.jpg", None], "texts": [None, "x"]},
    {"images": [None, None], "texts": [None, ""]},
    {"images": ["../1.jpg"], "texts": [None]},
    {"images": ["2.jpg", None], "texts": [None, "Words of the second."]},
]
MMC4: list[dict[str, Any]] = [
    {
        "text_list": ["First.", "Second.", "Third."],
        "image_info": [
            {"image_name": "1.jpg", "raw_url": "http://x.org/1.jpg", "matched_text_index": 2, "matched_sim": 0.31},
            {"image_name": "2.jpg", "raw_url": "http://x.org/2.jpg", "matched_text_index": 0, "matched_sim": 0.2},
        ],
    },
    {"text_list": ["Only."], "image_info": [{"image_name": "1.jpg", "matched_text_index": 7}]},
]


def told(record: Record) -> list[str]:
    return [part.uri or "" if isinstance(part, Media) else part.text for part in record.sample.parts]


def lay(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number)[0])


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_obelics_documents_keep_their_order(tmp_path: Path, form: str) -> None:
    lay(tmp_path)
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(OBELICS), tmp_path / "docs.parquet", row_group_size=2)
    else:
        (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, OBELICS)))
    source = {"kind": "interleaved", "path": str(tmp_path / f"docs.{form}"), "root": str(tmp_path)}
    reasons = ["", "bad_record", "", "no_parts", "path_escape", ""]
    found = records(source)
    assert [record.drop.reason if record.drop else "" for record in found] == reasons
    assert told(found[0]) == ["Before.", f"{tmp_path}/1.jpg", "Between.", f"{tmp_path}/2.jpg"]
    if form == "jsonl":
        dataset, rows = built(tmp_path / "out", source)
        assert states(rows) == ["ok", *(f"failed_permanent:{reason or 'not_found'}" for reason in reasons[1:5]), "ok"]
        assert [part.kind if isinstance(part, Media) else part.role for part in dataset[0].parts] == [
            *("document", "image", "document", "image"),
        ]
        assert [media.data for media in dataset[0].media] == [jpeg(1)[0], jpeg(2)[0]]
        assert dataset[0].meta == {"url": "http://x.org"}


def test_mmc4_pictures_stand_by_their_sentences(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, MMC4)))
    source = {"kind": "interleaved", "path": str(tmp_path / "docs.jsonl")}
    first, wrong = records(source)
    assert told(first) == ["http://x.org/2.jpg", "First.", "Second.", "http://x.org/1.jpg", "Third."]
    assert wrong.drop
    assert (wrong.drop.reason, "matched_text_index 7" in wrong.drop.detail) == ("bad_record", True)
    after = records({**source, "root": str(tmp_path), "picture": "after", "least_similarity": 0.3})[0]
    assert told(after) == ["First.", "Second.", "Third.", f"{tmp_path}/1.jpg"]


def test_other_tables_are_told_with_the_nearest_key(tmp_path: Path) -> None:
    (tmp_path / "docs.jsonl").write_text('{"image": [], "texts": []}\n')
    with pytest.raises(SpecError, match=r"source\.columns\.images: docs\.jsonl has no key 'images'.*mean 'image'"):
        Interleaved(path=str(tmp_path / "docs.jsonl")).open()
