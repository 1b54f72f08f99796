"""Small heads on a video's vectors: what happens (two streams), when (localisation), and how well (quality)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from mmtrain.models.layers import Borders, Layer
from mmtrain.models.video.times import time_code

FLOW_WINDOW = 5
"""Pixels a side over which a flow is one (Lucas and Kanade 1981)."""


def optical_flow(frames: torch.Tensor, *, window: int = FLOW_WINDOW, least: float = 1e-3) -> torch.Tensor:
    """Where pixels move from each frame to the next, by brightness alone: frames float [T, 3, H, W] -> [T, 2, H, W],
    right and down in pixels, the last frame's as the one before. In each window the flow that explains the changes of
    brightness best, least squares with a ridge of `least`. (Lucas and Kanade 1981; for motions of few pixels.)"""
    grey = frames.float().mean(1, keepdim=True)
    if len(grey) == 1:
        return torch.zeros(1, 2, *grey.shape[2:], device=frames.device)
    middle = (grey[1:] + grey[:-1]) / 2
    padded = F.pad(middle, (1, 1, 1, 1), mode="replicate")
    dx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    dy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    dt = grey[1:] - grey[:-1]

    def summed(x: torch.Tensor) -> torch.Tensor:
        return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)

    xx, yy, xy = summed(dx * dx) + least, summed(dy * dy) + least, summed(dx * dy)
    xt, yt = summed(dx * dt), summed(dy * dt)
    found = torch.cat([xy * yt - yy * xt, xy * xt - xx * yt], 1) / (xx * yy - xy * xy)
    return torch.cat([found, found[-1:]])


class Stream(nn.Module):
    """Frames [T, inside, H, W] -> a vector of each [T, width]: strided convolutions and a mean over the picture."""

    def __init__(self, inside: int, width: int, layers: int = 2) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for at in range(layers):
            parts += [nn.Conv2d(width if at else inside, width, 5, stride=2, padding=2), nn.GELU()]
        self.layers = nn.Sequential(*parts)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.layers(frames).mean((2, 3))
        return made


class TwoStream(nn.Module):
    """What happens in videos: one stream sees their frames, the other `stack` frames of optical flow around each, and
    the scores of both are averaged over time and then with each other (late fusion: Simonyan and Zisserman 2014, arXiv
    1406.2199, §2 and §5)."""

    def __init__(self, classes: int, width: int = 32, *, stack: int = 3) -> None:
        super().__init__()
        if stack % 2 == 0:
            raise ValueError(f"stack: {stack}; an odd one has a middle")
        self.stack = stack
        self.seen, self.moved = Stream(3, width), Stream(2 * stack, width)
        self.of_seen, self.of_moved = nn.Linear(width, classes), nn.Linear(width, classes)

    def forward(self, videos: Sequence[torch.Tensor]) -> torch.Tensor:
        """Videos [T, 3, H, W] of one size, of any length -> logits [N, classes]."""
        lengths = [len(video) for video in videos]
        flows = torch.cat([self._stacked(optical_flow(video)) for video in videos])
        scores = self.of_seen(self.seen(torch.cat(list(videos)))) + self.of_moved(self.moved(flows))
        return torch.stack([each.mean(0) for each in (scores / 2).split(lengths)])

    def _stacked(self, flow: torch.Tensor) -> torch.Tensor:
        half = self.stack // 2
        padded = torch.cat([flow[:1].expand(half, -1, -1, -1), flow, flow[-1:].expand(half, -1, -1, -1)])
        return torch.cat([padded[at : at + len(flow)] for at in range(self.stack)], 1)


class Localiser(nn.Module):
    """When things happen: for each frame of packed videos [T, width] how likely it lies in an event of each class, and
    how many seconds before it the event begins and after it ends (anchor-free, as ActionFormer has it: Zhang et al.
    2022, arXiv 2202.07925, §3.2 and §3.3), after layers in which frames see those of their video."""

    def __init__(self, width: int, classes: int, *, hidden: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.hidden = hidden
        self.inward = nn.Linear(width, hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.scores = nn.Linear(hidden, classes)
        self.reach = nn.Linear(hidden, 2 * classes)
        nn.init.constant_(self.scores.bias, -math.log(9))  # a frame is in an event one time in ten (RetinaNet)

    def forward(
        self, rows: torch.Tensor, lengths: Sequence[int], seconds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [T, classes], and seconds [T, classes, 2] to the beginning and to the end; `seconds` are those of the
        frames."""
        x = self.inward(rows) + time_code(seconds * 4, self.hidden).to(rows)
        borders = Borders.of(lengths, rows.device)
        for layer in self.layers:
            x = layer(x, borders)
        x = self.norm(x)
        return self.scores(x), F.softplus(self.reach(x)).unflatten(-1, (-1, 2))


Event = tuple[int, float, float]
"""A class, and the seconds at which it begins and ends."""


def localisation_loss(
    logits: torch.Tensor,
    reach: torch.Tensor,
    seconds: torch.Tensor,
    events: Sequence[Sequence[Event]],
    lengths: Sequence[int],
) -> torch.Tensor:
    """The focal loss of all frames (Lin et al. 2017, arXiv 1708.02002) and 1 - IoU of the spans of frames within
    events, over the number of such frames."""
    inside, wanted, at = torch.zeros_like(logits), torch.zeros_like(reach), 0
    for mine, count in zip(events, lengths, strict=True):
        own = seconds[at : at + count]
        for kind, begin, end in mine:
            within = (own >= begin) & (own <= end)
            inside[at : at + count, kind][within] = 1
            wanted[at : at + count, kind][within] = torch.stack([own - begin, end - own], -1)[within].to(wanted)
        at += count
    held = inside > 0
    positive = max(1, int(held.sum()))
    chance = logits.sigmoid()
    miss = (inside * (1 - chance) + (1 - inside) * chance) ** 2
    focal = F.binary_cross_entropy_with_logits(logits, inside, reduction="none") * miss
    overlap = torch.minimum(reach, wanted).sum(-1)
    union = torch.maximum(reach, wanted).sum(-1).clamp(min=1e-6)
    spans = (1 - overlap / union)[held].sum()
    return (focal.sum() + spans) / positive


def found_events(
    logits: torch.Tensor, reach: torch.Tensor, seconds: torch.Tensor, *, least: float = 0.5, overlap: float = 0.3
) -> list[tuple[int, float, float, float]]:
    """The events of one video, likeliest first: class, begin, end and score. Spans that overlap a likelier one of their
    class by more than an IoU of `overlap` are left out (non-maximum suppression), but those that overlap it by VOTES
    have a say in when it begins and ends: the mean, weighted by scores (box voting: Gidaris and Komodakis 2015, arXiv
    1505.01749, §4)."""
    scores = logits.sigmoid()
    found: list[tuple[int, float, float, float]] = []
    for frame, kind in torch.nonzero(scores >= least).tolist():
        at, (before, after) = float(seconds[frame]), reach[frame, kind].tolist()
        found.append((kind, at - before, at + after, float(scores[frame, kind])))
    kept: list[tuple[int, float, float, float]] = []
    for each in sorted(found, key=lambda event: -event[3]):
        if all(each[0] != other[0] or span_iou(each[1:3], other[1:3]) <= overlap for other in kept):
            kept.append(each)
    return [_voted(each, found) for each in kept]


def _voted(
    event: tuple[int, float, float, float], found: list[tuple[int, float, float, float]]
) -> tuple[int, float, float, float]:
    alike = [other for other in found if other[0] == event[0] and span_iou(event[1:3], other[1:3]) >= VOTES]
    total = sum(other[3] for other in alike)
    begin, end = (sum(other[at] * other[3] for other in alike) / total for at in (1, 2))
    return event[0], begin, end, event[3]


VOTES = 0.5
"""The least IoU of spans of which one votes for the other."""


def span_iou(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Intersection over union of two spans of time.

    >>> span_iou((0.0, 2.0), (1.0, 3.0))
    0.3333333333333333
    """
    both = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return both / max(1e-9, one[1] - one[0] + other[1] - other[0] - both)


class Quality(nn.Module):
    """How well something is done: frames of packed videos [T, width] -> a distribution over `grades` grades of each
    video, from `low` to `high`, whose mean is the score (score distributions: Tang et al. 2020, arXiv 2006.07665,
    §3.2). Frames count by learned attention."""

    def __init__(self, width: int, *, low: float = 0.0, high: float = 1.0, grades: int = 21, hidden: int = 64) -> None:
        super().__init__()
        self.register_buffer("values", torch.linspace(low, high, grades))
        self.matter = nn.Linear(width, 1)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, grades)

    values: torch.Tensor

    def forward(self, rows: torch.Tensor, lengths: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of grades [N, grades], and scores [N]."""
        pieces = zip(rows.split(list(lengths)), self.matter(rows).split(list(lengths)), strict=True)
        pooled = torch.stack([(piece * shares.softmax(0)).sum(0) for piece, shares in pieces])
        logits = self.down(F.gelu(self.up(pooled)))
        return logits, logits.softmax(-1) @ self.values

    def loss(self, logits: torch.Tensor, scores: torch.Tensor, *, spread: float = 0.05) -> torch.Tensor:
        """The divergence of a Gaussian around each true score, `spread` of the range wide, from the grades."""
        wide = spread * (self.values[-1] - self.values[0])
        wanted = (-((self.values - scores[:, None]) ** 2) / (2 * wide**2)).softmax(-1)
        return F.kl_div(logits.log_softmax(-1), wanted, reduction="batchmean")
