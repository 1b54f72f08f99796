"""Packs streamed again: bit for bit what the stream gave, on any rank, against logs that agree and logs that do not."""

from __future__ import annotations

import json
from pathlib import Path

import crc32c
import numpy as np
import pytest

from mmdata import StreamingDataset, forget, replay
from mmdata.families import Family, get_family
from mmdata.types import Packed, World
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer

BATCH = 3


@pytest.fixture(scope="module")
def family() -> Family:
    return get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("replay")
    small_tokenizer().save_pretrained(str(root / "tokenizer"))
    return write_dataset(root / "dataset", samples=40)


def stream(folder: Path, family: Family, rank: int = 0, ranks: int = 1) -> StreamingDataset:
    return StreamingDataset(
        folder, family=family, max_length=128, world=World(rank=rank, ranks=ranks), global_batch=BATCH
    )


def trained_on(folder: Path, family: Family, rank: int, ranks: int) -> list[list[Packed]]:
    """What a trainer takes in each step, from the beginning."""
    made = stream(folder, family, rank, ranks)
    found: dict[int, list[Packed]] = {}
    for dealt in made.deals():
        packed = made.read(dealt)
        assert isinstance(packed, Packed)
        found.setdefault(dealt.step, []).append(packed)
    return [found[step] for step in sorted(found)]


@pytest.mark.parametrize("ranks", [1, 2])
def test_steps_come_again_bit_for_bit(folder: Path, family: Family, ranks: int) -> None:
    """The arrays of each rank's packs, and the keys of all ranks together."""
    taken = [trained_on(folder, family, rank, ranks) for rank in range(ranks)]
    for rank in range(ranks):
        for step, packs in replay.replayed(stream(folder, family, rank, ranks), 1, 3):
            wanted = taken[rank][step.step]
            assert len(packs) == len(wanted) == len(step.arrays_crc32c)
            for packed, other in zip(packs, wanted, strict=True):
                assert packed.keys == other.keys
                a, b = replay.arrays(packed), replay.arrays(other)
                assert a.keys() == b.keys()
                assert all(np.array_equal(a[name], b[name]) for name in a)
            assert step.arrays_crc32c == [replay.checksum(each) for each in wanted]
            keys = [key for mine in taken for packed in mine[step.step] for key in packed.keys]
            assert step.samples == len(keys)
            assert step.keys_crc32c == f"{sum(crc32c.crc32c(key.encode()) for key in keys) % 2**32:08x}"


def test_a_checksum_notices_every_array(folder: Path, family: Family) -> None:
    ((_, (packed, *_)),) = list(replay.replayed(stream(folder, family), 0, 0))
    whole = replay.checksum(packed)
    for array in replay.arrays(packed).values():  # the arrays themselves, where they are contiguous
        flat = array.reshape(-1).view(np.uint8)
        flat[len(flat) // 2] ^= 1
        changed = replay.checksum(packed)
        flat[len(flat) // 2] ^= 1
        assert changed != whole
    assert replay.checksum(packed) == whole


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [str(folder), "--family", "llava", "--tokenizer", str(folder.parent / "tokenizer"), "--image", "size=28"]
    common += ["--max-length", "128", "--global-batch", str(BATCH)]
    record, output = tmp_path / "record.jsonl", tmp_path / "packs"
    assert replay.main([*common, "--steps", "0..2", "--record", str(record)]) == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    capsys.readouterr()
    told = [*common, "--steps", "1..3", "--log", str(record)]
    assert replay.main([*told, "--output", str(output)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("  as in the log\n") == 2
    assert shown.count("  not in the log\n") == 1
    assert "2 of 3 steps compared" in shown
    with np.load(output / "step-00000001-rank-0-pack-0.npz", allow_pickle=False) as saved:
        assert saved["input_ids"].dtype == np.int32
        assert len(saved["keys"]) == len(saved["cu_seqlens"]) - 1
        assert saved["media/pixel_values"].ndim == 4
    # Other ranks have other packs, and the same samples together.
    assert replay.main([*told, "--ranks", "2", "--rank", "1"]) == 0
    # A log of another run differs, and says in what.
    record.write_text("".join(json.dumps(line | {"keys_crc32c": "00000000"}) + "\n" for line in lines) + '{"step": 9')
    assert replay.main(told) == 3
    assert "DIFFERS: keys_crc32c: 00000000 -> " in capsys.readouterr().out


def test_data_that_changed_since_differ_unless_the_state_is_given(
    tmp_path: Path, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=30)
    small_tokenizer().save_pretrained(str(tmp_path / "tokenizer"))
    made = stream(folder, family)
    (tmp_path / "state.json").write_text(json.dumps(made.state_dict(step=2)))
    first = [step for step, _ in replay.replayed(made, 0, 1)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": s.step, "keys_crc32c": s.keys_crc32c}) + "\n" for s in first))
    forget.forget(folder, ["000000003", "000000021"], "test")
    common = [str(folder), "--family", "llava", "--tokenizer", str(tmp_path / "tokenizer"), "--image", "size=28"]
    common += ["--max-length", "128", "--global-batch", str(BATCH), "--steps", "0..1", "--log", str(log)]
    assert replay.main(common) == 3
    assert replay.main([*common, "--state", str(tmp_path / "state.json")]) == 0
    assert "masked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["--steps", "3..1"], "steps: 3..1; write A..B with 0 <= A <= B"),
        (["--steps", "x"], "steps: 'x'; write A..B"),
        (["--steps", "900"], "the stream ends before step 900"),
    ],
)
def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], told: list[str], message: str) -> None:
    common = [str(folder), "--family", "llava", "--tokenizer", str(folder.parent / "tokenizer"), "--image", "size=28"]
    assert replay.main([*common, "--max-length", "128", *told]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    if told[1] == "x":
        assert replay.main([str(folder), "--steps", "1"]) == 2
        assert "give --family and --tokenizer" in capsys.readouterr().err
