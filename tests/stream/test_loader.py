"""The loader: the same batches by threads and by processes, samples without a family, errors, devices, stats."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmdata import StreamingDataset, StreamLoader
from mmdata.collate import PackedCollator
from mmdata.decode.image import decode
from mmdata.errors import DataError, RunError, SpecError
from mmdata.families import Family
from mmdata.stream.device import Copier, each_tensor
from mmdata.stream.stats import IDLE
from mmdata.types import Decoded, Sample

CAPACITY = 128


def stream(folder: Path, family: Family | None, **options: Any) -> StreamingDataset:
    given = {"max_length": CAPACITY, "family": family} if family is not None else {}
    return StreamingDataset(folder, **given, seed=5, **options)  # type: ignore[arg-type]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    return bool(a == b)


def test_processes_make_what_threads_make(folder: Path, family: Family) -> None:
    expected = list(StreamLoader(stream(folder, family), PackedCollator()))
    loader = StreamLoader(stream(folder, family), PackedCollator(), workers=2, ahead=5, multiprocessing_context="fork")
    try:
        for _ in range(2):  # the same processes do the second pass
            found = list(loader)
            assert len(found) == len(expected) > 5
            assert all(equal(a, b) for a, b in zip(found, expected, strict=True))
        found[0]["labels"][0, 0] = 7  # a batch is the trainer's, who may write into it
        taken = list(itertools.islice(iter(loader), 4))
        resumed = StreamLoader(stream(folder, family), PackedCollator())
        resumed.load_state_dict(loader.state_dict())
        assert all(equal(a, b) for a, b in zip([*taken, *resumed], expected, strict=True))
        assert loader.stats().busy["hand_over"] > 0
    finally:
        loader.close()


def test_a_killed_worker_stops_the_run_and_leaves_nothing(folder: Path, family: Family) -> None:
    loader = StreamLoader(
        stream(folder, family, epochs=None), PackedCollator(), workers=1, threads=1, multiprocessing_context="fork"
    )
    running = iter(loader)
    next(running)
    assert loader._processes is not None
    process = loader._processes._workers[0]._process
    os.kill(process.pid or 0, signal.SIGKILL)
    with pytest.raises(RunError, match="killed by signal 9"):
        list(running)
    loader.close()
    assert not process.is_alive()


class Square:
    """uint8 [3, 8, 8] of a sample's picture, without a resize worth the name."""

    def __call__(self, sample: Sample) -> tuple[str, np.ndarray]:
        pixels = decode(sample.media[0].data or b"", max_pixels=10**7)
        if sample.key.endswith("7"):
            raise DataError("unwanted", sample.key)
        return sample.key, pixels[:8, :8].transpose(2, 0, 1)


def stacked(several: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
    return {"keys": [key for key, _ in several], "pixels": torch.from_numpy(np.stack([array for _, array in several]))}


LEFT = """
import sys
from mmdata import StreamingDataset, StreamLoader

if __name__ == "__main__":
    passes = [iter(StreamLoader(StreamingDataset(sys.argv[1]), batch_size=2, workers=count)) for count in (0, 1)]
    print([len(next(each)) for each in passes])
"""


def test_passes_that_a_script_leaves_unfinished_end_with_it_in_silence(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "left.py"
    script.write_text(LEFT)
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 2]\n", "")


@pytest.mark.parametrize("context", [None, "fork", pytest.param("spawn", marks=pytest.mark.soak)])
def test_samples_without_a_family_in_order_and_in_batches(folder: Path, context: str | None) -> None:
    keys = [sample.key for sample in stream(folder, None) if isinstance(sample, Sample)]
    wanted = [key for key in keys if not key.endswith("7")]
    loader = StreamLoader(
        stream(folder, None, yields="raw"),
        stacked,
        transform=Square(),
        batch_size=4,
        workers=0 if context is None else 1,
        ahead=3,
        multiprocessing_context=context or "spawn",
    )
    batches = list(loader)
    loader.close()
    assert [key for batch in batches for key in batch["keys"]] == wanted
    assert loader.bad == {"unwanted": len(keys) - len(wanted)}
    assert batches[0]["pixels"].shape[1:] == (3, 8, 8)
    groups = [keys[at : at + 4] for at in range(0, len(keys), 4)]
    assert [batch["keys"] for batch in batches] == [[key for key in group if key in wanted] for group in groups]


def test_plain_samples_are_decoded_and_a_state_counts_them(folder: Path) -> None:
    expected = [sample.key for sample in stream(folder, None) if isinstance(sample, Sample)]
    loader = StreamLoader(stream(folder, None), threads=3)
    first = list(itertools.islice(loader, 10))
    assert all(isinstance(sample.media[0], Decoded) for sample in first)
    rest = StreamLoader(stream(folder, None))
    rest.load_state_dict(loader.state_dict())
    assert [sample.key for sample in [*first, *rest]] == expected


def test_several_packs_in_a_batch_stay_within_their_step(folder: Path, family: Family) -> None:
    packs = [batch["keys"] for batch in StreamLoader(stream(folder, family), PackedCollator())]
    loader = StreamLoader(stream(folder, family, global_batch=5), PackedCollator(), batch_size=2)
    batches = [[batch["keys"] for batch in step] for step in loader.steps()]
    steps = [packs[at : at + 5] for at in range(0, len(packs), 5)]
    assert batches == [[list(itertools.chain(*step[at : at + 2])) for at in range(0, len(step), 2)] for step in steps]


def test_a_bug_in_a_transform_stops_the_run(folder: Path) -> None:
    def broken(sample: Sample) -> None:
        raise ZeroDivisionError(sample.key)

    with pytest.raises(ZeroDivisionError):
        list(StreamLoader(stream(folder, None), transform=broken))


def test_mistakes_are_named(folder: Path, family: Family) -> None:
    with pytest.raises(SpecError, match="PackedCollator"):
        StreamLoader(stream(folder, family))
    with pytest.raises(SpecError, match="threads is 0"):
        StreamLoader(stream(folder, None), threads=0)
    with pytest.raises(SpecError, match="workers is -1"):
        StreamLoader(stream(folder, None), workers=-1)


def test_stats_tell_who_starves_whom(folder: Path, family: Family) -> None:
    slow = StreamLoader(stream(folder, family), PackedCollator(), threads=2, ahead=4)
    for _ in slow:
        time.sleep(0.15)
    told = slow.stats()
    assert told.batches == len(told.queue) > 5
    assert told.samples == len(slow.dataset.dataset)
    assert told.bytes > 1000
    assert told.waited - told.first < 0.2 * told.seconds
    assert told.ready > 1.5
    # Where a machine takes back the memory of those that sleep, the trainer waits for its pages, and is told so.
    waits = (told.waited - told.first) / (told.seconds - told.first)
    assert told.verdict.startswith("nothing starves" if waits <= IDLE else "the readers starve the trainer")
    before = told.seconds
    assert slow.stats().seconds == before, "the pass is over"

    def sleepy(sample: Sample) -> Sample:
        time.sleep(0.01)
        return sample

    quick = StreamLoader(stream(folder, None), transform=sleepy, threads=2, ahead=8)
    list(quick)
    told = quick.stats()
    assert told.share["decode"] > 0.5
    assert told.busy["decode"] > 0.01 * told.samples
    assert told.verdict.startswith("decoding and resizing starves the trainer")
    assert "more threads" in str(told)


def test_stats_cost_little() -> None:
    """A lap per medium and a few per batch: against the milliseconds of a picture."""
    from mmdata.stream.stats import Spent

    spent = Spent()
    began = time.perf_counter()
    for _ in range(10_000):
        spent.lap("decode")
    assert (time.perf_counter() - began) / 10_000 < 2e-5


def test_the_copy_on_the_cpu_is_none_and_nests_anyhow() -> None:
    batch = {"a": torch.zeros(2), "b": [torch.ones(1), ("x", torch.ones(3))], "n": 4}
    batch["again"] = batch["a"]
    copier = Copier(None)
    assert not copier.active
    assert copier.finish(copier.start(copier.pin(batch))) is batch
    doubled = each_tensor(batch, lambda tensor: tensor + 1)
    assert doubled["b"][1][0] == "x"
    assert doubled["b"][1][1].tolist() == [2, 2, 2]
    assert doubled["again"] is doubled["a"]


def test_a_loader_asks_for_the_copy_of_the_next_batch_early(
    folder: Path, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that only notes what it is told: every batch is pinned, copied and finished, in order, and the
    copy of a batch is begun before the one before it is given up by the trainer."""
    batches = sum(1 for _ in StreamLoader(stream(folder, family), PackedCollator()))
    made: list[Any] = []

    class Counting(PackedCollator):
        def __call__(self, *packs: Any, **more: Any) -> Any:
            batch = super().__call__(*packs, **more)
            made.append(batch["keys"])
            return batch

    loader = StreamLoader(stream(folder, family), Counting(), ahead=4)
    said: list[tuple[str, str]] = []

    class Noting:
        active = True

        def pin(self, batch: Any) -> Any:
            said.append(("pin", batch["keys"][0]))
            return batch

        def start(self, batch: Any) -> Any:
            said.append(("start", batch["keys"][0]))
            return batch

        def finish(self, batch: Any) -> Any:
            said.append(("finish", batch["keys"][0]))
            return batch

    monkeypatch.setattr(loader, "_copier", Noting())
    taken = []
    for batch in loader:
        taken.append(batch["keys"][0])
        until = time.monotonic() + 10  # the trainer works until the next is made: two threads make them
        while len(made) < min(len(taken) + 2, batches) and time.monotonic() < until:
            time.sleep(0.002)
        time.sleep(0.05)  # from its making to its being there
    for what in ("pin", "start", "finish"):
        assert [key for name, key in said if name == what] == taken
    early = [
        said.index(("start", after)) < said.index(("finish", before)) for before, after in itertools.pairwise(taken)
    ]
    assert sum(early) > len(early) / 2
    assert loader.stats().busy["copy"] >= 0
