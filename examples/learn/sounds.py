"""Play sounds one after the other, and say when: python -m examples.learn.sounds FOLDER [--train N] [--heldout N].

FOLDER/sounds holds `train.jsonl`, `heldout.jsonl` (LLaVA's conversations, with `events`: [onset, offset, label] in
seconds) and the clips of two seconds that they name. Nothing is labelled by hand, and every file is the same for the
same number.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from examples.learn.make import RATE, write_wave

SECONDS = 2.0
SOUNDS = ("beep", "buzz", "hiss", "chirp")
STEP = 0.05
"""Seconds to which onsets and offsets are rounded."""


def sound(label: str, count: int, draw: np.random.Generator) -> np.ndarray:
    """So many samples of a sound, float [count]."""
    at = np.arange(count) / RATE
    if label == "hiss":
        return draw.normal(size=count) * 0.4
    pitch = float(draw.uniform(0.95, 1.05)) * {"beep": 1200, "buzz": 150, "chirp": 400}[label]
    if label == "buzz":
        return sum(np.sin(2 * math.pi * k * pitch * at) / k for k in range(1, 12)) * 0.6
    rising = pitch * (at + 1.5 * at**2 / max(at[-1], 1e-6)) if label == "chirp" else pitch * at
    return np.sin(2 * math.pi * rising)


def clip(draw: np.random.Generator, most: int) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """int16 [samples] at 16 kHz of one to `most` sounds with silence between them, and these."""
    samples = draw.normal(size=int(SECONDS * RATE)) * 0.01
    events, free = [], 0.05
    for _ in range(int(draw.integers(1, most + 1))):
        onset = free + STEP * int(draw.integers(1, 8))
        offset = onset + STEP * int(draw.integers(6, 13))
        if offset > SECONDS - 0.05:
            break
        label = str(draw.choice(SOUNDS))
        first, stop = round(onset * RATE), round(offset * RATE)
        swell = np.minimum(1, np.minimum(np.arange(stop - first), np.arange(stop - first)[::-1]) / 80)
        samples[first:stop] += sound(label, stop - first, draw) * swell * float(draw.uniform(0.2, 0.5))
        events.append((round(onset, 3), round(offset, 3), label))
        free = offset + STEP
    return (np.clip(samples, -1, 1) * 32767).astype(np.int16), events


def make_sounds(folder: Path, name: str, seed: int, count: int, most: int = 3) -> None:
    """Clips with their lines, under FOLDER."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        samples, events = clip(np.random.default_rng((seed, number)), most)
        path = f"{name}/{number:05d}.wav"
        write_wave(folder / path, samples)
        caption = ", then ".join(f"a {label}" for _, _, label in events)
        said = [{"from": "human", "value": "<audio>\nWhat can be heard?"}, {"from": "gpt", "value": caption}]
        told: dict[str, Any] = {"audio": path, "conversations": said, "events": events}
        lines.append(json.dumps(told) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.sounds", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="clips to train on")
    parser.add_argument("--heldout", type=int, default=100, metavar="N", help="clips to test on")
    parser.add_argument("--most", type=int, default=3, metavar="N", help="sounds of a clip")
    options = parser.parse_args(arguments)
    make_sounds(options.folder / "sounds", "train", 1, options.train, options.most)
    make_sounds(options.folder / "sounds", "heldout", 2, options.heldout, options.most)


if __name__ == "__main__":
    main()
