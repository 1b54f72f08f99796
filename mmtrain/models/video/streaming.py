"""Videos of any length, window by window: the memory that it takes does not grow with the video.

A window is `window` new frames and `overlap` frames on each side of them, which are seen and not answered. For layers
that look no further than that (`frames`, `local`), what comes out is what the whole video at once
would give; for layers that look at everything it is their answer about the window. Clips of a
hierarchical encoder are encoded as they come, and `Memory` holds of them no more than it was told to.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from mmtrain.models.connectors.patches import Patches
from mmtrain.models.video.footage import Footage
from mmtrain.models.video.hierarchical import Hierarchical


class Shot(NamedTuple):
    """A frame's patches [S, width], their (rows, columns), and the second at which it is shown."""

    rows: torch.Tensor
    grid: tuple[int, int]
    second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is known of some frames: their vectors [frames, S, width], and the seconds at which they are shown."""

    rows: torch.Tensor
    seconds: tuple[float, ...]


def stream_frames(module: Any, shots: Iterable[Shot], *, window: int, overlap: int | None = None) -> Iterator[Window]:
    """Frames through an `Attending` without `video_token` and `reduce`, `window` at a time, as they come.

    At most `window + 2 * overlap` frames are held. `overlap` is by default how far the module looks
    (`AttendingSpec.reach`). Raises ValueError for a module without an answer for each frame, for one that looks at the
    whole video and no `overlap`, and for times by number (`times: frames`), which are not known in the middle.
    """
    spec = module.spec
    if isinstance(module, Hierarchical) or spec.widens or spec.reduce is not None:
        raise ValueError(f"model.video.kind: {spec.kind} has no vectors of single frames; use stream_clips")
    if spec.times == "frames":
        raise ValueError("model.video.times: frames: a window does not know the numbers of its frames; use seconds")
    reach = spec.reach if overlap is None else overlap
    if reach is None:
        raise ValueError(f"model.video.kind: {spec.kind} looks at the whole video; give an overlap, or use local")
    if window < 1 or reach < 0:
        raise ValueError(f"window {window}, overlap {reach}")
    source, first = iter(shots), None
    held: deque[Shot] = deque(itertools.islice(source, window + reach))
    before = 0
    while len(held) > before:
        first = held[0].second if first is None else first
        count = min(window, len(held) - before)
        made, _ = module.seen(_footage(list(held), first))
        rows = made.view(len(held), -1, made.shape[-1])[before : before + count]
        seconds = tuple(shot.second - first for shot in held)[before : before + count]
        yield Window(rows=rows, seconds=seconds)
        kept = min(before + count, reach)
        for _ in range(before + count - kept):
            held.popleft()
        before = kept
        held.extend(itertools.islice(source, before + window + reach - len(held)))


@dataclass(slots=True, kw_only=True)
class Memory:
    """At most `most` vectors of what was seen, in order of time. Where another comes in that has no room, the two
    neighbours that are most alike (by cosine) become one: the mean of all that went into them. (MovieChat: Song et al.
    2023, arXiv 2307.16449, §3.2; MA-LMM: He et al. 2024, arXiv 2404.05726, §3.2.)"""

    most: int
    rows: list[torch.Tensor]
    seconds: list[float]
    weights: list[int]

    @staticmethod
    def of(most: int) -> Memory:
        """An empty one."""
        if most < 2:
            raise ValueError(f"a memory of {most} vectors; it needs 2 to have neighbours")
        return Memory(most=most, rows=[], seconds=[], weights=[])

    def add(self, rows: torch.Tensor, second: float) -> None:
        """Take in vectors [n, width] of one moment."""
        for row in rows:
            self.rows.append(row.clone())  # not a view, which would hold the whole window
            self.seconds.append(second)
            self.weights.append(1)
            if len(self.rows) > self.most:
                self._merge()

    def _merge(self) -> None:
        whole = F.normalize(torch.stack(self.rows).float(), dim=-1)
        at = int((whole[:-1] * whole[1:]).sum(-1).argmax())
        a, b = self.weights[at : at + 2]
        self.rows[at] = (self.rows[at] * a + self.rows[at + 1] * b) / (a + b)
        self.seconds[at] = (self.seconds[at] * a + self.seconds[at + 1] * b) / (a + b)
        self.weights[at] = a + b
        for kept in (self.rows, self.seconds, self.weights):
            del kept[at + 1]  # type: ignore[attr-defined]


def stream_clips(module: Hierarchical, shots: Iterable[Shot], *, memory: int) -> tuple[torch.Tensor, tuple[float, ...]]:
    """A video of any length through a hierarchical encoder: [n, width] and the second of each, n being the vectors of
    all clips or `memory`, whichever is less. One clip and `memory` vectors are held. Where all fit, it is what the
    whole video at once would give."""
    store, source, first = Memory.of(memory), iter(shots), None
    while clip := list(itertools.islice(source, module.spec.clip)):
        first = clip[0].second if first is None else first
        rows, _ = module.clips(_footage(clip))
        store.add(rows, clip[0].second - first)
    if not store.rows:
        return torch.empty(0, module.width), ()
    rows = torch.stack(store.rows)
    begins = torch.tensor(store.seconds, device=rows.device)
    return module.timed(rows, begins, [len(rows)]), tuple(store.seconds)


def _footage(shots: Sequence[Shot], first: float | None = None) -> Footage:
    patches = Patches(
        rows=torch.cat([shot.rows for shot in shots]),
        lengths=tuple(len(shot.rows) for shot in shots),
        grids=tuple(shot.grid for shot in shots),
    )
    device = patches.rows.device
    seconds = torch.tensor([shot.second for shot in shots], device=device)
    start = None if first is None else (first,)
    return Footage(patches=patches, frames=(len(shots),), seconds=seconds, starts=start)
