"""Heads on a video's vectors learn what they are for: which motion, when something happens, how well, how far apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmtrain.models.video.heads import (
    Localiser,
    Quality,
    TwoStream,
    found_events,
    localisation_loss,
    optical_flow,
    span_iou,
)
from mmtrain.models.video.offset import OffsetPredictor, moved, shifted

Event = tuple[int, float, float]


def blob(x: float, y: float, side: int = 24) -> torch.Tensor:
    at = torch.arange(side).float()
    return torch.exp(-((at[None, :] - x) ** 2 + (at[:, None] - y) ** 2) / 18).expand(3, -1, -1)


def test_flow_is_how_things_move() -> None:
    for dx, dy in ((0.5, 0.0), (-0.5, 0.25), (0.0, 0.0)):
        frames = torch.stack([blob(12 + dx * t, 12 + dy * t) for t in range(3)])
        flow = optical_flow(frames, window=7)
        assert flow.shape == (3, 2, 24, 24)
        centre = flow[0, :, 9:16, 9:16].mean((1, 2))
        assert torch.allclose(centre, torch.tensor([dx, dy]), atol=0.08), (centre, dx, dy)
    assert not optical_flow(frames[:1]).any()


def motion(draw: np.random.Generator) -> tuple[torch.Tensor, int]:
    """A blob that moves one of four ways, through the same places."""
    kind = int(draw.integers(4))
    dx, dy = ((1, 0), (-1, 0), (0, 1), (0, -1))[kind]
    x, y = draw.uniform(10, 14, 2)
    speed = float(draw.uniform(0.5, 0.9))
    return torch.stack([blob(x + dx * speed * t, y + dy * speed * t) for t in np.arange(6) - 2.5]), kind


def test_two_streams_tell_motions_apart() -> None:
    """Four motions whose frames are the same: nine in ten of those that it never saw, a guess being one in four."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = TwoStream(4, 8)
    optim = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(25):
        videos, kinds = zip(*(motion(draw) for _ in range(8)), strict=True)
        loss = torch.nn.functional.cross_entropy(model(videos), torch.tensor(kinds))
        optim.zero_grad()
        loss.backward()
        optim.step()
    videos, kinds = zip(*(motion(np.random.default_rng((1, n))) for n in range(40)), strict=True)
    with torch.no_grad():
        right = (model(videos).argmax(-1) == torch.tensor(kinds)).float().mean()
        alone = torch.cat([model([video]) for video in videos[:3]])
        assert torch.allclose(alone, model(videos[:3]), atol=1e-5)
    assert right >= 0.9, right


def happening(draw: np.random.Generator, width: int = 8) -> tuple[torch.Tensor, torch.Tensor, list[Event]]:
    """Frames four times a second, noise but for one event of two kinds that lasts one to three seconds."""
    count = int(draw.integers(24, 48))
    seconds = torch.arange(count) / 4
    rows = torch.from_numpy(draw.normal(size=(count, width))).float() * 0.5
    kind, lasts = int(draw.integers(2)), float(draw.uniform(1, 3))
    begin = float(draw.uniform(0.5, float(seconds[-1]) - lasts - 0.5))
    within = (seconds >= begin) & (seconds <= begin + lasts)
    rows[within, kind] += 2.0
    return rows, seconds, [(kind, begin, begin + lasts)]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_events_are_found_in_time() -> None:
    """Synthetic events: 85 in 100 are the likeliest of their video, of the right kind, and begin and end within three
    frames (0.75 s) of the truth; an event lasts one to three seconds."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = Localiser(8, 2, hidden=32, layers=2, heads=4)
    optim = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):
        rows, seconds, events = zip(*(happening(draw) for _ in range(8)), strict=True)
        lengths = [len(each) for each in rows]
        logits, reach = model(torch.cat(rows), lengths, torch.cat(seconds))
        loss = localisation_loss(logits, reach, torch.cat(seconds), events, lengths)
        for group in optim.param_groups:
            group["lr"] = 3e-3 * (1 - step / 300)
        optim.zero_grad()
        loss.backward()
        optim.step()
    right, far = 0, []
    for number in range(100):
        rows, seconds, ((kind, begin, end),) = happening(np.random.default_rng((1, number)))
        with torch.no_grad():
            logits, reach = model(rows, [len(rows)], seconds)
        found = found_events(logits, reach, seconds, least=0.3)
        if found and found[0][0] == kind:
            far.append(max(abs(found[0][1] - begin), abs(found[0][2] - end)))
            right += far[-1] <= 0.75
    assert right >= 85, (right, np.median(far))


def test_a_localiser_packs_and_its_events_are_suppressed() -> None:
    torch.manual_seed(0)
    model = Localiser(8, 2, hidden=16, layers=1, heads=2)
    both = [happening(np.random.default_rng(n)) for n in range(2)]
    rows, seconds = torch.cat([each[0] for each in both]), torch.cat([each[1] for each in both])
    lengths = [len(each[0]) for each in both]
    logits, reach = model(rows, lengths, seconds)
    alone = [model(each[0], [len(each[0])], each[1]) for each in both]
    assert torch.allclose(logits, torch.cat([each[0] for each in alone]), atol=1e-5)
    assert torch.allclose(reach, torch.cat([each[1] for each in alone]), atol=1e-5)
    at = torch.arange(5.0)
    sure = torch.full((5, 1), -9.0)
    sure[1], sure[2], sure[4] = 2.0, 3.0, 1.0
    spans = torch.tensor([[1.0, 1.0]] * 4 + [[0.5, 0.5]])[:, None]
    assert [each[:3] for each in found_events(sure, spans, at)] == [(0, 1.0, 3.0), (0, 3.5, 4.5)]
    assert span_iou((0, 1), (2, 3)) == 0
    perfect = torch.full((5, 1), -9.0)
    perfect[1:4] = 9.0
    exact = torch.stack([at - 1, 3 - at], -1).clamp(min=0)[:, None]
    assert float(localisation_loss(perfect, exact, at, [[(0, 1.0, 3.0)]], [5])) < 1e-3


def test_quality_is_graded() -> None:
    """A score that is how steady a signal is: off by less than a tenth of the range on average, a constant by a
    quarter."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = Quality(4, hidden=16)

    def videos(draw: np.random.Generator, count: int) -> tuple[torch.Tensor, list[int], torch.Tensor]:
        scores, lengths = draw.uniform(0, 1, count), draw.integers(3, 9, count).tolist()
        rows = [draw.normal(size=(n, 4)) * 0.2 + score for n, score in zip(lengths, scores, strict=True)]
        return torch.from_numpy(np.concatenate(rows)).float(), lengths, torch.from_numpy(scores).float()

    optim = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        rows, lengths, scores = videos(draw, 16)
        loss = model.loss(model(rows, lengths)[0], scores)
        optim.zero_grad()
        loss.backward()
        optim.step()
    rows, lengths, scores = videos(np.random.default_rng(1), 60)
    with torch.no_grad():
        assert float((model(rows, lengths)[1] - scores).abs().mean()) < 0.1


def clip(draw: np.random.Generator, steps: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Things that flash and ring at the same time, each side with noise of its own."""
    happens = (draw.uniform(size=steps) < 0.15).astype(np.float32)
    sides = []
    for width in (6, 4):
        direction = np.linspace(1, 2, width, dtype=np.float32)
        sides.append(torch.from_numpy(happens[:, None] * direction + draw.normal(size=(steps, width)) * 0.3).float())
    return sides[0], sides[1]


def test_known_shifts_are_recovered() -> None:
    """Nineteen in twenty offsets to the step, of shifts up to six either way; a guess is right once in thirteen."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    model = OffsetPredictor(6, 4, most=6, width=16)
    optim = torch.optim.Adam(model.parameters(), lr=1e-2)

    def batch(draw: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        seen, heard, offsets = [], [], []
        for _ in range(count):
            picture, sound = clip(draw)
            late = shifted(sound, 6, draw)
            seen.append(picture)
            heard.append(late.sound)
            offsets.append(late.offset)
        return torch.stack(seen), torch.stack(heard), torch.tensor(offsets)

    for _ in range(60):
        seen, heard, offsets = batch(draw, 16)
        loss = model.loss(model(seen, heard), offsets)
        optim.zero_grad()
        loss.backward()
        optim.step()
    seen, heard, offsets = batch(np.random.default_rng(1), 100)
    assert float((model.offset(seen, heard) == offsets).float().mean()) >= 0.95
    blind = torch.zeros_like(seen)  # the sound alone tells nothing
    assert float((model.offset(blind, heard) == offsets).float().mean()) < 0.3
    with pytest.raises(ValueError, match="longer clips"):
        model(seen[:, :6], heard[:, :6])


def test_shifts_turn_sound_around_and_tell_nothing_by_silence() -> None:
    sound = torch.arange(1.0, 5.0)[:, None]
    assert moved(sound, 2)[:, 0].tolist() == [3, 4, 1, 2]
    assert moved(sound, -3)[:, 0].tolist() == [4, 1, 2, 3]
    assert moved(sound, 0)[:, 0].tolist() == [1, 2, 3, 4]
    offsets = {shifted(sound, 2, np.random.default_rng(n)).offset for n in range(60)}
    assert offsets == {-2, -1, 0, 1, 2}
