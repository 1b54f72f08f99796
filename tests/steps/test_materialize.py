"""The step's options are checked before a build; the shards it fills stay readable by others."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.decode.work import Work
from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.specfile import load_build
from mmdata.steps.materialize import Materialize
from mmdata.types import Media, Origin, Sample
from tests.building import build, folder_of_pictures, write_spec
from tests.dataset_fixture import jpeg

STEP = {"kind": "materialize", "family": "llava", "image": {"size": 28}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"family": "lava"}, "did you mean 'llava'"),
        ({"family": "llava", "image": {"sise": 28}}, "did you mean 'size'"),
        ({"family": "llava", "audio": {"n_mels": 80}}, "takes no audio"),
        ({"family": "whisper", "dtype": "uint8"}, "store float32"),
        ({"family": "pix2struct", "store": "jpeg"}, "store float32"),
        ({"family": "llava", "store": "jpeg", "dtype": "uint8"}, "jpeg has no dtype"),
        ({"family": "llava", "image": {"dtype": "uint8"}, "dtype": "float32"}, "asked for uint8"),
    ],
)
def test_wrong_options_are_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Materialize(**given)  # type: ignore[arg-type]


def test_nothing_may_change_media_afterwards(tmp_path: Path) -> None:
    folder_of_pictures(tmp_path / "in", 1)
    source = {"kind": "folder", "path": "in"}
    late = [{"kind": "probe"}, STEP, {"kind": "resize", "size": 64}]
    with pytest.raises(SpecError, match="resize after materialize"):
        load_build(str(write_spec(tmp_path / "s.yaml", source, late)))
    load_build(str(write_spec(tmp_path / "s.yaml", source, [*late[::2], STEP, {**STEP, "store": "jpeg"}])))


def test_what_is_not_the_bytes_that_the_facts_describe_is_an_error() -> None:
    data, _, height, width = jpeg(0)
    step = Materialize(family="llava", image={"size": 28})

    def apply(**facts: int) -> None:
        medium = Media(kind="image", data=data, format="jpeg", **facts)
        step.apply(Sample(key="a", parts=(medium,), origin=Origin(uri="", row=0)), Work())

    apply(height=height, width=width)
    with pytest.raises(DataError, match="facts_mismatch"):
        apply(height=height + 1, width=width)
    with pytest.raises(DataError, match="no_facts"):
        apply()


def test_others_read_the_shard_as_ever(tmp_path: Path) -> None:
    import webdataset as wds
    from datasets import Image, load_dataset

    folder_of_pictures(tmp_path / "in", 12)
    build(write_spec(tmp_path / "s.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}, STEP]))
    shards = [str(path) for path in sorted((tmp_path / "out" / "shards").glob("*.tar"))]
    dataset = open_dataset(tmp_path / "out")
    (name,) = {stored.name for sample in dataset for medium in sample.media for stored in medium.made}
    found = list(wds.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in found] == dataset.keys()
    for sample in found:
        ours = dataset.sample(dataset.position(sample["__key__"]), stored=True)
        assert sample["jpg"] == ours.media[0].data
        assert sample["txt"].decode() == ours.texts[0].text
        assert sample[f"{name}.arrow"] == ours.media[0].made[0].data
    decoded = list(wds.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpg", "txt"))
    assert len(decoded) == 12
    loaded = load_dataset("webdataset", data_files=shards, split="train", cache_dir=str(tmp_path / "cache"))
    rows = list(loaded.cast_column("jpg", Image(decode=False)))
    assert [row["jpg"]["bytes"] for row in rows] == [sample.media[0].data for sample in dataset]
