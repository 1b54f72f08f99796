"""What columns mean: `datasets`' own word for it against names and options."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pytest

from mmdata.errors import SpecError
from mmdata.sources._columns import Columns, columns
from mmdata.sources._naming import Naming

BYTES = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def of(schema: pa.Schema, **naming: object) -> Columns:
    return columns(schema, "t", Naming(**naming))  # type: ignore[arg-type]


def test_the_schema_of_datasets_says_what_names_do_not() -> None:
    features = datasets.Features(
        {
            "photo": datasets.Image(),
            "views": datasets.List(datasets.Image()),
            "speech": datasets.Audio(sampling_rate=16_000),
            "film": datasets.Video(),
            "caption": datasets.Value("string"),
            "raw": datasets.Value("binary"),
        }
    )
    found = of(features.arrow_schema)
    assert found.media == {"photo": "image", "views": "image", "speech": "audio", "film": "video"}
    assert (found.texts, found.talk) == ((("caption", ""),), None)
    assert of(features.arrow_schema.remove_metadata(), image=("photo",)).media == {"photo": "image"}


def test_options_say_more_than_schema_and_names() -> None:
    schema = pa.schema({"image": BYTES, "thumb": BYTES, "q": pa.string(), "a": pa.string(), "id": pa.int64()})
    found = of(schema, image=("thumb",), text=("q:user", "a:assistant"), key="id")
    assert found == Columns(media={"thumb": "image"}, texts=(("q", "user"), ("a", "assistant")), talk=None, key="id")
    assert list(of(schema, image=("thumb", "image")).media) == ["thumb", "image"]


@pytest.mark.parametrize(
    ("naming", "said"),
    [
        ({"image": ("picture",)}, r"no column picture among image \(struct"),
        ({"image": ("n",)}, "column n cannot hold media"),
        ({"image": ("image",), "video": ("image",)}, "named twice"),
        ({"key": "image"}, "not texts or integers"),
    ],
)
def test_options_that_cannot_be_are_refused(naming: dict[str, object], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        of(pa.schema({"image": BYTES, "n": pa.int64()}), **naming)


def test_a_column_that_is_there_twice_is_refused() -> None:
    schema = pa.schema([("text", pa.string()), ("text", pa.string())])
    with pytest.raises(SpecError, match="more than one column is called text"):
        of(schema)


def test_conversations_are_told_by_name_and_type() -> None:
    turn = pa.list_(pa.struct({"user": pa.string(), "assistant": pa.string()}))
    assert of(pa.schema({"images": pa.list_(BYTES), "texts": turn})).talk == "texts"
    page = of(pa.schema({"images": pa.list_(BYTES), "texts": pa.list_(pa.string())}))
    assert (page.talk, page.texts) == (None, (("texts", ""),))
    assert of(pa.schema({"conversations": pa.string()})).talk == "conversations"
    assert of(pa.schema({"chat": pa.string(), "text": pa.string()}), conversations="chat").texts == ()
