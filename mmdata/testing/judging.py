"""What a reader made of a damaged file, against what it had to: ours by default, or anybody's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

from mmdata.errors import DataError
from mmdata.testing.corruptor import Corruption

MAX_PIXELS = 4_000_000
MAX_SECONDS = 600.0
"""Limits of what is read; the bombs of `corruptions` announce more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How it ended: the `reason` of the refusal ("" where it was read), and the `problem` with that, "" for none."""

    reason: str
    problem: str


def judge(damaged: Corruption, read: Callable[[Corruption], None] | None = None) -> Verdict:
    """Read a damaged file wholly, and say whether it ended as it had to.

    `read` raises DataError where it refuses; by default it is `read_fully`. For another's decoder: turn its errors into
    `DataError(reason, detail)`; every other exception is a problem, and so are a reason that does not belong to the
    medium, and a file that is read though it proves itself damaged, or refused though it is whole.

    >>> from mmdata.testing.corruptor import corrupt
    >>> from mmdata.testing.specimens import specimen
    >>> judge(corrupt(specimen("png"), "png", "cut"))
    Verdict(reason='truncated_image', problem='')
    >>> judge(corrupt(specimen("png"), "png", "cut"), read=lambda damaged: None).problem
    'png cut (seed 0): read, though it must be refused'
    """
    name = f"{damaged.format} {damaged.kind} (seed {damaged.seed})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (read or read_fully)(damaged)
    except DataError as error:
        if damaged.outcome == "whole":
            return Verdict(reason=error.reason, problem=f"{name}: {error}, though it is whole")
        if error.reason not in damaged.reasons:
            return Verdict(reason=error.reason, problem=f"{name}: {error}: no reason of a damaged {damaged.medium}")
        return Verdict(reason=error.reason, problem="")
    except Exception as error:
        return Verdict(reason=type(error).__name__, problem=f"{name}: {type(error).__name__}: {error}")
    wrong = f"{name}: read, though it must be refused" if damaged.outcome == "refused" else ""
    return Verdict(reason="", problem=wrong)


def read_fully(damaged: Corruption) -> None:
    """Facts and proof by `mmdata.decode`, and what is decoded against those facts. Raises DataError for a refusal, and
    AssertionError where pixels or samples are others than the facts promise."""
    from mmdata.decode import audio, image, video, video_facts

    data = damaged.data
    if damaged.medium == "image":
        header = image.read_header(data, max_pixels=MAX_PIXELS)
        image.verify(data, max_pixels=MAX_PIXELS)
        pixels = image.decode(data, max_pixels=MAX_PIXELS)
        assert pixels.shape == (header.height, header.width, 3), f"{pixels.shape} for {header}"
    elif damaged.medium == "audio":
        sound = audio.read_facts(data, max_seconds=MAX_SECONDS)
        samples = audio.decode(data, sample_rate=None, max_seconds=MAX_SECONDS)
        assert len(samples) == sound.samples, f"{len(samples)} samples for {sound}"
    else:
        film = video_facts.read_facts(data, verify="full")
        assert film.frames is not None, "proved"
        frames = video.decode_frames(data, [0, film.frames - 1], packets=film.packets)
        assert tuple(frames.pixels.shape) == (2, 3, film.height, film.width), f"{frames.pixels.shape} for {film}"
