"""Windows of a video give what the whole would, and hold no more for a longer one."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmtrain.models import video
from mmtrain.models.video.hierarchical import footage_of
from mmtrain.models.video.streaming import Memory, Shot, stream_clips, stream_frames

WIDTH = 16
GRID = (2, 3)
PLACES = GRID[0] * GRID[1]


def shots(count: int, *, seed: int = 0) -> Iterator[Shot]:
    """Frames that exist only when they are asked for."""
    for at in range(count):
        draw = torch.Generator().manual_seed(1000 * seed + at)
        yield Shot(rows=torch.randn(PLACES, WIDTH, generator=draw), grid=GRID, second=3 + at / 2)


def module(**told: Any) -> Any:
    torch.manual_seed(0)
    return video.make(video.read(told), WIDTH, 1).eval()


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("count", [1, 3, 4, 11])
@torch.no_grad()
def test_windows_with_overlap_are_the_whole_video(count: int) -> None:
    """Two layers that look one frame away, four frames at a time with two on each side: as all frames at once."""
    own = module(kind="local", window=1, layers=2)
    whole = list(shots(count))
    seconds = torch.tensor([shot.second for shot in whole])
    wanted, _ = own(footage_of(torch.cat([shot.rows for shot in whole]), PLACES, GRID, seconds))
    found = list(stream_frames(own, shots(count), window=4))
    assert torch.allclose(torch.cat([each.rows for each in found]).flatten(0, 1), wanted, atol=1e-5)
    assert [second for each in found for second in each.seconds] == [at / 2 for at in range(count)]
    if count == 11:
        without = list(stream_frames(own, shots(count), window=4, overlap=0))
        assert not torch.allclose(torch.cat([each.rows for each in without]).flatten(0, 1), wanted, atol=1e-2)


@torch.no_grad()
def test_clips_that_fit_into_memory_are_the_whole_video() -> None:
    own = module(kind="hierarchical", clip=3, tokens=2, layers=1)
    whole = list(shots(8))
    seconds = torch.tensor([shot.second for shot in whole])
    wanted, _ = own(footage_of(torch.cat([shot.rows for shot in whole]), PLACES, GRID, seconds))
    found, at = stream_clips(own, shots(8), memory=6)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert at == (0.0, 0.0, 1.5, 1.5, 3.0, 3.0)
    fewer, at = stream_clips(own, shots(8), memory=4)
    assert fewer.shape == (4, WIDTH)
    assert list(at) == sorted(at)
    assert stream_clips(own, iter(()), memory=4)[0].shape == (0, WIDTH)


@pytest.mark.parametrize("kind", ["local", "divided", "hierarchical"])
@torch.no_grad()
def test_memory_is_flat_in_the_length_of_the_video(kind: str) -> None:
    """The most bytes of tensors that live at once: the same for 20 frames and for 120."""
    most = {}
    for count in (20, 120):
        with Alive() as alive:
            if kind == "hierarchical":
                stream_clips(module(kind=kind, clip=4, tokens=2), shots(count), memory=8)
            else:
                overlap = None if kind == "local" else 2
                for _ in stream_frames(module(kind=kind), shots(count), window=4, overlap=overlap):
                    pass
        most[count] = alive.most
    assert most[20] > 4 * PLACES * WIDTH * 4
    assert most[120] <= 1.01 * most[20], most


def test_memory_merges_the_neighbours_that_are_alike() -> None:
    store = Memory.of(2)
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    store.add(torch.stack([a]), 0.0)
    store.add(torch.stack([2 * a, b]), 1.0)
    assert [row.tolist() for row in store.rows] == [[1.5, 0.0], [0.0, 1.0]]
    assert (store.seconds, store.weights) == ([0.5, 1.0], [2, 1])
    with pytest.raises(ValueError, match="it needs 2"):
        Memory.of(1)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"kind": "joint"}, "give an overlap"),
        ({"kind": "local", "times": "frames"}, "use seconds"),
        ({"kind": "hierarchical"}, "use stream_clips"),
        ({"kind": "divided", "video_token": "beside"}, "no vectors of single frames"),
    ],
)
def test_what_cannot_be_streamed_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        next(stream_frames(module(**told), shots(2), window=2))
