"""Forgetting: tombstones that add up, cannot be changed or taken out, and leave the shards alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmdata.errors import DataError, RunError
from mmdata.forget import forget, main
from mmdata.shards import tombstones
from mmdata.shards.dataset import open_dataset
from tests.dataset_fixture import write_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "d", samples=20, per_shard=8)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_generations_add_up_and_shards_stay(folder: Path) -> None:
    before = files(folder)
    first = forget(folder, ["000000009", "000000003", "000000009"], "opt_out")
    assert first is not None
    assert [(stone.key, stone.position) for stone in first.stones] == [("000000003", 3), ("000000009", 9)]
    assert forget(folder, ["000000003"], "again") is None
    second = forget(folder, ["000000003", "000000019"], "licence")
    assert second is not None
    assert [stone.key for stone in second.stones] == ["000000019"]
    dataset = open_dataset(folder)
    assert [dataset.masked(generation).tolist() for generation in (0, 1, 2)] == [[], [3, 9], [3, 9, 19]]
    assert dataset.masked().tolist() == [3, 9, 19]
    assert dataset[3].key == "000000003"
    assert [removal.digest for removal in dataset.removals()] == [first.digest, second.digest]
    assert {name: data for name, data in files(folder).items() if name in before} == before
    with pytest.raises(DataError, match="tombstones_missing"):
        dataset.masked(3)


def test_digests_are_of_keys_and_reasons_not_of_times(tmp_path: Path) -> None:
    digests = []
    for number, (reason, time) in enumerate([("a", "2020"), ("a", "2021"), ("b", "2020")]):
        (tmp_path / str(number)).mkdir()
        stone = tombstones.Tombstone(key="k", position=1, reason=reason, time=time)
        digests.append(tombstones.append(tmp_path / str(number), [stone]).digest)
    assert digests[0] == digests[1] != digests[2]


def test_unknown_keys_remove_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--keys", "000000001", "nobody", "--reason", "x"]) == 2
    assert "has no key nobody; nothing is removed" in capsys.readouterr().err
    assert open_dataset(folder).masked().tolist() == []
    assert main([str(folder / "nothing"), "--keys", "a", "--reason", "x"]) == 2


def test_the_command_takes_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("000000001\n\n000000002\n")
    command = [sys.executable, "-m", "mmdata.forget", str(folder), "--file", str(tmp_path / "ids.txt")]
    done = subprocess.run([*command, "--reason", "opt_out"], capture_output=True, text=True, timeout=60, check=True)
    assert "2 samples removed by tombstones/0001.arrow" in done.stdout
    assert open_dataset(folder).masked().tolist() == [1, 2]


def test_what_an_expression_is_true_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = open_dataset(folder)
    wide = [sample.key for sample in dataset if sample.media[0].width > 200 and "cat" in sample.texts[0].text]
    assert 0 < len(wide) < 20
    told = [str(folder), "--where", 'width > 200 and contains(caption, "cat")', "--reason", "wide"]
    assert main([*told, "--dry-run"]) == 0
    assert f"{len(wide)} samples would be removed: {wide[0]}" in capsys.readouterr().out
    assert open_dataset(folder).masked().tolist() == []
    assert main(told) == 0
    assert [dataset.keys_at(open_dataset(folder).masked())] == [wide]
    assert main(told) == 0
    assert "removed before" in capsys.readouterr().out
    assert main([str(folder), "--where", 'key == "000000001"', "--reason", "one"]) == 0


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("width >", "where"),
        ("widht > 3", "no sample of .* has 'widht'; did you mean 'width'"),
        ("lower(width) == 'a'", "where_type"),
        ("width > 99999", "no sample"),
    ],
)
def test_a_mistaken_expression_removes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], where: str, message: str
) -> None:
    assert main([str(folder), "--where", where, "--reason", "x"]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert open_dataset(folder).masked().tolist() == []


def test_every_changed_byte_and_every_missing_file_is_told(folder: Path) -> None:
    forget(folder, ["000000001", "000000002"], "opt_out")
    forget(folder, ["000000005"], "licence")
    forget(folder, ["000000006"], "licence")
    place = folder / "tombstones"
    for name in ("0001.arrow", "0002.arrow"):
        data = (place / name).read_bytes()
        for at in range(0, len(data), 7):
            for changed in (data[:at], data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]):
                (place / name).write_bytes(changed)
                with pytest.raises(DataError, match="tombstones_damaged"):
                    tombstones.read(folder)
        (place / name).unlink()
        with pytest.raises(DataError, match="tombstones_missing"):
            tombstones.read(folder)
        (place / name).write_bytes(data)
    shutil.copy(place / "0001.arrow", place / "0002.arrow")
    with pytest.raises(DataError, match="tombstones_damaged"):
        tombstones.read(folder)


def test_two_at_once_do_not_overwrite_each_other(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget(folder, ["000000001"], "opt_out")
    monkeypatch.setattr(tombstones, "read", lambda folder: ())
    with pytest.raises(RunError, match="another removal has been written"):
        forget(folder, ["000000002"], "opt_out")
    assert sorted(path.name for path in (folder / "tombstones").iterdir()) == ["0001.arrow"]


def test_keys_are_found_again_when_shards_are_cut_anew(folder: Path, tmp_path: Path) -> None:
    forget(folder, ["000000010", "000000015"], "opt_out")
    other = write_dataset(tmp_path / "other", samples=20, per_shard=5)
    shutil.copytree(folder / "tombstones", other / "tombstones")
    assert open_dataset(other).masked().tolist() == [10, 15]
    smaller = write_dataset(tmp_path / "smaller", samples=12, per_shard=5)
    shutil.copytree(folder / "tombstones", smaller / "tombstones")
    assert np.array_equal(open_dataset(smaller).masked(), [10])
