"""Stages of views: planned from their block on, read as planned, resumed, and refused where they say nothing known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmdata import StreamingDataset
from mmdata.errors import SpecError
from mmdata.families import Family, get_family
from mmdata.stream.spec import StreamSpec
from mmdata.stream.staged import ViewStage, stage_of, staged
from mmdata.types import Packed
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

STAGES = ({"at": 20, "image": {"size": 56}}, {"at": 45, "image": {"size": 42}})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("staged") / "dataset", samples=40)


def llava() -> Family:
    return get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})


def stream(folder: Path, **more: Any) -> StreamingDataset:
    spec = StreamSpec.model_validate(
        {"dataset": str(folder), "max_length": 128, "block_samples": 10, "epochs": 2, "views": STAGES, **more}
    )
    return StreamingDataset(spec, family=llava())


def test_packs_are_read_at_the_resolution_of_their_block(folder: Path) -> None:
    """10 samples a block, 4 blocks an epoch: 28 pixels before sample 20, then 56, and 42 from sample 45, which is the
    block that begins at 50 in the second epoch."""
    data = stream(folder)
    sides = {0: [28, 28, 56, 56], 1: [56, 42, 42, 42]}
    seen = 0
    for deal in data.deals():
        assert deal.pack is not None
        side = sides[deal.pack.epoch][deal.pack.block]
        packed = data.read(deal)
        assert isinstance(packed, Packed)
        assert packed.media["pixel_values"].shape[1:] == (3, side, side)
        assert {slot.tokens for slot in packed.slots} == {(side // 14) ** 2}
        assert not packed.masked
        seen += len(packed.keys)
    assert seen == 80


def test_a_state_goes_on_in_its_stage(folder: Path) -> None:
    whole = [(pack.keys, pack.media["pixel_values"].shape) for pack in stream(folder) if isinstance(pack, Packed)]
    first = stream(folder)
    taken = iter(first)
    for _ in range(len(whole) // 2):
        next(taken)
    after = stream(folder)
    after.load_state_dict(first.state_dict())
    rest = [(pack.keys, pack.media["pixel_values"].shape) for pack in after if isinstance(pack, Packed)]
    assert rest == whole[len(whole) // 2 :]
    with pytest.raises(SpecError, match="views"):
        stream(folder, views=STAGES[:1]).load_state_dict(first.state_dict())


def test_without_stages_nothing_changes(folder: Path) -> None:
    plain = [pack.keys for pack in stream(folder, views=()) if isinstance(pack, Packed)]
    late = [
        pack.keys for pack in stream(folder, views=[{"at": 10_000, "image": {"size": 56}}]) if isinstance(pack, Packed)
    ]
    assert plain == late


def test_stages_add_up() -> None:
    stages = [ViewStage(at=0, image={"size": 42}), ViewStage(at=9, image={"size": 56})]
    views: list[Any] = [family.media["image"].view for family in staged(llava(), stages)]
    assert [view.size for view in views] == [28, 42, 56]
    assert [stage_of(stages, before) for before in (0, 8, 9)] == [1, 1, 2]


def test_mistakes_name_the_field_and_a_remedy(folder: Path) -> None:
    with pytest.raises(SpecError, match=r"views: image at 20: Fixed has no setting 'sise'; did you mean 'size'\?"):
        stream(folder, views=[{"at": 20, "image": {"sise": 56}}])
    with pytest.raises(SpecError, match="views: family llava takes no audio; leave it out of the stage at 5"):
        stream(folder, views=[{"at": 5, "audio": {"n_mels": 80}}])
    with pytest.raises(ValueError, match="views: the stage at 20 follows one at 45"):
        StreamSpec.model_validate({"dataset": "x", "views": STAGES[::-1]})
    with pytest.raises(ValueError, match="the stage at 5 sets nothing"):
        ViewStage(at=5)
    with pytest.raises(SpecError, match="views: without a family"):
        StreamingDataset(StreamSpec.model_validate({"dataset": str(folder), "views": STAGES}))
