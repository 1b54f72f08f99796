"""Token counts on disk against the tokenizer itself; what is stale, damaged or cannot be written."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmdata.shards.dataset import open_dataset
from mmdata.stream import lengths as module
from mmdata.stream.lengths import Lengths
from mmdata.templates import Template, encode, get_template
from mmdata.types import Media, Text
from tests.stream.planning import Parts, mixed, write_facts
from tests.tokenizer_fixture import small_tokenizer

BAD: Parts = [Media(kind="image", height=9, width=9), Text(text="nothing is trained", train=False)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    samples = mixed(120)
    samples[17] = BAD
    return write_facts(tmp_path / "dataset", samples, per_shard=50)


def caption() -> Template:
    return get_template("caption", tokenizer=small_tokenizer())


def opened(folder: Path, where: Path | None = None) -> Lengths:
    return Lengths(open_dataset(folder), small_tokenizer(), caption(), where)


def counted(lengths: Lengths, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions whose texts are read from now on."""
    seen: list[int] = []
    plain = type(lengths.dataset).sample

    def sample(self: object, position: int, **options: bool) -> object:
        seen.append(position)
        return plain(self, position, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(type(lengths.dataset), "sample", sample)
    return seen


def test_counts_are_those_of_the_encoded_samples(folder: Path) -> None:
    dataset = open_dataset(folder)
    positions = np.random.default_rng(0).permutation(120)
    found = opened(folder).at(positions)
    samples = [dataset.sample(position, media=False) for position in positions.tolist()]
    for at, encoded in enumerate(encode(samples, small_tokenizer(), caption())):
        if positions[at] == 17:
            assert found.reasons[at] == encoded.reason == "no_target"  # type: ignore[union-attr]
            assert found.tokens[at] == 0
            continue
        assert found.tokens[at] == len(encoded.ids) - len(encoded.media)  # type: ignore[union-attr]
        assert found.targets[at] == sum(span.stop - span.start for span in encoded.spans)  # type: ignore[union-attr]
    assert len(found.reasons) == 1


def test_shards_are_counted_once_and_on_demand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = opened(folder)
    seen = counted(first, monkeypatch)
    first.at(np.array([51, 60]))
    assert sorted(seen) == list(range(50, 100))
    first.at(np.arange(50, 100))
    assert len(seen) == 50
    assert opened(folder).make() == 2
    assert len(seen) == 120
    again = opened(folder)
    assert again.at(np.arange(120)).tokens.tolist() == first.at(np.arange(120)).tokens.tolist()
    assert len(seen) == 120


def test_every_damaged_byte_makes_a_file_anew(folder: Path) -> None:
    lengths = opened(folder)
    right = lengths.at(np.arange(120)).tokens.tolist()
    (path,) = (folder / "lengths").glob("*/000001.arrow")
    whole = path.read_bytes()
    for at in range(0, len(whole), 37):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert opened(folder).at(np.arange(120)).tokens.tolist() == right, at
    path.write_bytes(whole[: len(whole) // 2])
    assert opened(folder).at(np.arange(120)).tokens.tolist() == right
    assert path.read_bytes() == whole, "equal counts are equal bytes"


def test_another_template_or_shard_has_other_files(folder: Path, tmp_path: Path) -> None:
    opened(folder).make()
    other = Lengths(open_dataset(folder), small_tokenizer(), get_template("caption", train_on="all"))
    assert other.make() == 3
    changed = write_facts(tmp_path / "changed", mixed(120, seed=1), per_shard=50)
    shutil.copytree(folder / "lengths", changed / "lengths")
    assert opened(changed).make() == 3, "counts of other texts are not taken"


def test_a_dataset_that_cannot_be_written_is_counted_in_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (folder / "lengths").write_bytes(b"a file where the folder should be")
    lengths = opened(folder)
    assert lengths.make() == 3
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 3
    assert opened(folder).make() == 0
    named = opened(folder, tmp_path / "named")
    assert named.make([0]) == 1
    assert len(list((tmp_path / "named").rglob("*.arrow"))) == 1


def _make(folder: Path) -> None:
    opened(folder).make()


def test_processes_share_files_without_locks(folder: Path) -> None:
    expected = opened(folder).at(np.arange(120)).tokens.tolist()
    shutil.rmtree(folder / "lengths")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_make, args=(folder,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert opened(folder).make() == 0
    assert opened(folder).at(np.arange(120)).tokens.tolist() == expected
    assert not list((folder / "lengths").rglob("*.tmp"))


def test_long_work_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    said: list[str] = []
    opened(folder).make(tell=said.append)
    assert said
    assert "texts of 1 of 3 shards counted" in said[0]
