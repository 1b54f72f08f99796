"""A stream of bytes: the order, keys and bytes of the samples, in any process, resumed in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from mmdata import StreamingDataset
from mmdata.shards.dataset import open_dataset
from mmdata.shards.raw import RawSample
from mmdata.stream.dataset import Yields
from mmdata.stream.spec import StreamSpec
from mmdata.types import World
from tests.dataset_fixture import write_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("bytes") / "d", samples=23, per_shard=8)


def told(samples: object) -> list[tuple[str, dict[str, bytes]]]:
    assert all(isinstance(sample, RawSample) for sample in samples)  # type: ignore[attr-defined]
    return [(s.key, {name: bytes(part) for name, part in s.parts.items()}) for s in samples]  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 2])
def test_bytes_come_in_the_order_of_the_samples_and_resume(folder: Path, workers: int) -> None:
    stream = StreamingDataset(folder, yields="bytes", seed=3)
    samples = list(StreamingDataset(folder, yields="raw", seed=3))
    expected = [
        (s.key, {"jpg": s.media[0].data, "txt": s.texts[0].text.encode()})  # type: ignore[union-attr]
        for s in samples
    ]
    assert told(list(DataLoader(stream, batch_size=None, num_workers=workers))) == expected
    other = StreamingDataset(folder, yields="bytes", seed=3)
    other.load_state_dict(stream.state_dict(step=9))
    assert told(list(other)) == expected[9:]


def test_a_sample_whose_bytes_changed_is_skipped_and_counted(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "d", samples=6, per_shard=3)
    place = open_dataset(folder).row(4).parts[1].place
    assert place is not None
    shard = folder / "shards" / "000001.tar"
    data = bytearray(shard.read_bytes())
    data[place.offset + 100] ^= 4
    shard.write_bytes(data)
    stream = StreamingDataset(folder, yields="bytes", shuffle="none")
    assert [key for key, _ in told(list(stream))] == [f"{row:09d}" for row in (0, 1, 2, 3, 5)]
    assert stream.bad == {"part_crc32c": 1}


@pytest.mark.parametrize("yields", ["bytes", "raw"])
@pytest.mark.parametrize(("rank", "ranks", "batch"), [(0, 1, 1), (0, 1, 4), (1, 2, 4), (2, 3, 5)])
def test_stretches_give_the_samples_and_states_of_single_deals(
    folder: Path, yields: Yields, rank: int, ranks: int, batch: int
) -> None:
    spec = StreamSpec(dataset=str(folder), seed=3, shuffle="global", block_samples=8, epochs=2)
    world = World(rank=rank, ranks=ranks)

    def stream() -> StreamingDataset:
        return StreamingDataset(spec, yields=yields, world=world, global_batch=batch)

    single, together = stream(), stream()
    assert together.planner.blocks > 1
    expected = [(single.read(dealt), single.state_at(dealt.after)) for dealt in single.deals() if dealt.pack]
    found = [(sample, together.state_dict()) for sample in together]
    assert [(sample.key, state) for sample, state in found] == [(sample.key, state) for sample, state in expected]  # type: ignore[union-attr]
    for at in (1, 2, len(found) - 2):  # within steps, too
        resumed = stream()
        resumed.load_state_dict(found[at][1])
        assert [sample.key for sample in resumed] == [sample.key for sample, _ in found[at + 1 :]]  # type: ignore[union-attr]
