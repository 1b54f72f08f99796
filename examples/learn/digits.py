"""Say digits: python -m examples.learn.digits FOLDER [--train N] [--heldout N] [--speakers N] [--most N].

Nobody is recorded: a synthesiser of formants says the words, as machines of the 1980s did. Overtones and noise are
shaped by the resonances of a vocal tract that glides from one sound's place to the next (vowels: Peterson & Barney
1952, table II). A speaker is a voice by chance: how high and how it falls, how long the vocal tract, how fast, how
breathy, how loud the room. Those of `heldout` are not those of `train`. FOLDER/digits holds `train.jsonl` and
`heldout.jsonl` (LLaVA's conversations) and their clips of up to a second; FOLDER/whisper is the `config.json` of a
small Whisper that takes as much, for towers of random weights. Every file is the same for the same number.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import WhisperConfig

from examples.learn.make import RATE, line, write_wave

SECONDS = 1.0
"""Of a clip, for each of its digits."""
FRAME = 80
"""Samples from one state of the vocal tract to the next: 5 ms."""
HIGHER = (3500.0, 4500.0)
"""Hz of the fourth and fifth resonance, which stay."""
GLIDE = 9
"""Frames over which one sound becomes the next."""
WORDS = {
    "zero": "z i r o u",
    "one": "w A n",
    "two": "t u",
    "three": "T r I",
    "four": "f O r",
    "five": "f a i v",
    "six": "s i k s",
    "seven": "s e v @ n",
    "eight": "e i t",
    "nine": "n a i n",
}


class Sound(NamedTuple):
    """One sound of a word: resonances in Hz, how loud the voice is and how loud the noise, where that is loudest and
    how wide (Hz), milliseconds; `stop` of them silent, before a burst."""

    formants: tuple[float, float, float]
    voice: float
    noise: float
    centre: float
    width: float
    length: float
    stop: float = 0.0


SOUNDS = {
    "I": Sound((270, 2290, 3010), 1.0, 0, 0, 1, 150),
    "i": Sound((390, 1990, 2550), 1.0, 0, 0, 1, 90),
    "e": Sound((530, 1840, 2480), 1.0, 0, 0, 1, 110),
    "a": Sound((730, 1090, 2440), 1.0, 0, 0, 1, 120),
    "O": Sound((570, 840, 2410), 1.0, 0, 0, 1, 140),
    "o": Sound((520, 950, 2350), 1.0, 0, 0, 1, 90),
    "u": Sound((300, 870, 2240), 1.0, 0, 0, 1, 130),
    "A": Sound((640, 1190, 2390), 1.0, 0, 0, 1, 120),
    "@": Sound((500, 1500, 2500), 0.7, 0, 0, 1, 60),
    "r": Sound((420, 1300, 1650), 0.7, 0, 0, 1, 80),
    "w": Sound((300, 610, 2200), 0.6, 0, 0, 1, 70),
    "n": Sound((280, 1700, 2600), 0.35, 0, 0, 1, 80),
    "v": Sound((300, 1400, 2300), 0.3, 0.08, 5000, 3000, 70),
    "z": Sound((300, 1700, 2500), 0.2, 0.35, 5500, 1200, 90),
    "s": Sound((300, 1700, 2500), 0.0, 0.5, 5800, 1300, 110),
    "f": Sound((300, 1100, 2300), 0.0, 0.15, 4500, 4000, 100),
    "T": Sound((300, 1400, 2500), 0.0, 0.1, 6500, 2500, 90),
    "t": Sound((300, 1800, 2600), 0.0, 0.5, 4200, 1800, 80, 50),
    "k": Sound((300, 1900, 2400), 0.0, 0.5, 1900, 700, 90, 60),
}


class Speaker(NamedTuple):
    """A voice."""

    pitch: float
    """Hz, at the beginning of a word,"""
    fall: float
    """of which so much is gone at its end."""
    tract: float
    """Factor of all resonances: a shorter vocal tract has higher ones."""
    pace: float
    """Factor of all lengths."""
    breath: float
    """Noise in the voice."""
    room: float
    """Noise beside it."""


def speaker(draw: np.random.Generator) -> Speaker:
    high = draw.random() < 0.5
    return Speaker(
        pitch=float(draw.uniform(165, 255) if high else draw.uniform(85, 150)),
        fall=float(draw.uniform(0.1, 0.3)),
        tract=float(draw.uniform(1.08, 1.22) if high else draw.uniform(0.92, 1.06)),
        pace=float(draw.uniform(0.75, 1.15)),
        breath=float(draw.uniform(0.0, 0.05)),
        room=float(10 ** draw.uniform(-4, -2.3)),
    )


def say(word: str, voice: Speaker, draw: np.random.Generator) -> np.ndarray:
    """A word, float64 [samples] of about 1 at most."""
    sounds = [SOUNDS[name] for name in WORDS[word].split()]
    rows = []
    for each in sounds:
        length = max(3, round(each.length * voice.pace * float(draw.uniform(0.85, 1.15)) / 5))
        silent = round(each.stop * voice.pace / 5)
        held = [*each.formants, each.voice, each.noise, each.centre, each.width]
        rows += [[*held[:3], 0.0, 0.0, *held[5:]]] * silent + [held] * (length - silent)
    ease = np.hanning(GLIDE + 2)[1:-1]
    states = np.array(rows)
    padded = np.concatenate([np.repeat(states[:1], GLIDE // 2, 0), states, np.repeat(states[-1:], GLIDE // 2, 0)])
    tract = np.stack([np.convolve(column, ease / ease.sum(), "valid") for column in padded[:, :3].T], axis=1)
    loud = np.stack([_eased(column) for column in states[:, 3:5].T], axis=1)
    tract *= voice.tract * (1 + draw.normal(size=3) * 0.02)
    return _voiced(tract, loud[:, 0], voice, draw) + _noise(states, loud[:, 1], voice, draw)


def _eased(column: np.ndarray) -> np.ndarray:
    """Over three frames, from silence to silence."""
    return np.convolve(np.pad(column, 1), [0.25, 0.5, 0.25], "same")[1:-1]


def _voiced(tract: np.ndarray, loud: np.ndarray, voice: Speaker, draw: np.random.Generator) -> np.ndarray:
    """Overtones of the pitch below 5 kHz, each as loud as three resonances let it through, falling 6 dB an octave."""
    frames = len(tract)
    at = np.arange(frames * FRAME) / FRAME
    wobble = np.cumsum(draw.normal(size=frames)) * 0.004
    pitch = voice.pitch * (1 - voice.fall * np.arange(frames) / frames + wobble)
    high = np.interp(at, np.arange(frames), pitch)
    phase = 2 * np.pi * np.cumsum(high) / RATE
    made = np.zeros(frames * FRAME)
    for number in range(1, int(5000 / pitch.max()) + 1):
        hertz = number * pitch
        gain = np.full(frames, 1.0 / number)
        higher = [np.full(frames, hertz_ * voice.tract) for hertz_ in HIGHER]
        for formant, width in zip([*tract.T, *higher], (70, 90, 140, 250, 300), strict=True):
            gain *= formant**2 / np.hypot(formant**2 - hertz**2, width * hertz)
        made += np.interp(at, np.arange(frames), gain * loud) * np.sin(number * phase)
    breath = draw.normal(size=len(made)) * voice.breath * np.interp(at, np.arange(frames), loud)
    return made / 8 + breath


def _noise(states: np.ndarray, loud: np.ndarray, voice: Speaker, draw: np.random.Generator) -> np.ndarray:
    """White noise through one wide hill for each frame, overlapped and added."""
    size = 4 * FRAME
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    made = np.zeros((len(states) + 3) * FRAME)
    for at, (row, level) in enumerate(zip(states, loud, strict=True)):
        if level > 0 and row[5] > 0:
            hill = np.exp(-0.5 * ((hertz - row[5] * voice.tract**0.5) / row[6]) ** 2)
            shaped = np.fft.irfft(np.fft.rfft(draw.normal(size=size)) * hill) * np.hanning(size)
            made[at * FRAME : at * FRAME + size] += shaped * level / 2
    return made[FRAME + FRAME // 2 :][: len(states) * FRAME]


def clip(words: list[str], voice: Speaker, draw: np.random.Generator) -> np.ndarray:
    """Words after each other, int16 [samples] at 16 kHz."""
    pieces = [np.zeros(int(draw.uniform(0.02, 0.15) * RATE))]
    for word in words:
        pieces += [say(word, voice, draw), np.zeros(int(draw.uniform(0.03, 0.12) * voice.pace * RATE))]
    sound = np.concatenate(pieces)[: int(SECONDS * RATE) * len(words)]
    sound = sound / np.abs(sound).max() * float(draw.uniform(0.2, 0.8)) + draw.normal(size=len(sound)) * voice.room
    return (np.clip(sound, -1, 1) * 32767).astype(np.int16)


def make_digits(folder: Path, name: str, seed: int, count: int, speakers: int, most: int = 1) -> None:
    """Clips of one to `most` digits by so many speakers, with their lines, under FOLDER."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    voices = [speaker(np.random.default_rng((seed, 1, number))) for number in range(speakers)]
    lines = []
    for number in range(count):
        draw = np.random.default_rng((seed, 0, number))
        words = [str(word) for word in draw.choice(list(WORDS), int(draw.integers(1, most + 1)))]
        path = f"{name}/{number:05d}.wav"
        write_wave(folder / path, clip(words, voices[number % speakers], draw))
        lines.append(line("audio", path, "Which digits?", " ".join(words)))
    (folder / f"{name}.jsonl").write_text("".join(lines))


def make_whisper(folder: Path, seconds: int) -> None:
    """The settings of a small Whisper: 40 bins, so many seconds."""
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 1, "encoder_ffn_dim": 128, "decoder_ffn_dim": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    told = WhisperConfig(**heads, **sizes, **tokens, num_mel_bins=40, max_source_positions=50 * seconds, vocab_size=320)
    told.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.learn.digits", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="clips to train on")
    parser.add_argument("--heldout", type=int, default=200, metavar="N", help="clips to test on")
    parser.add_argument("--speakers", type=int, default=50, metavar="N", help="to train on; half as many to test on")
    parser.add_argument("--most", type=int, default=1, metavar="N", help="digits of a clip")
    options = parser.parse_args(arguments)
    make_digits(options.folder / "digits", "train", 1, options.train, options.speakers, options.most)
    heldout = max(1, options.speakers // 2)
    make_digits(options.folder / "digits", "heldout", 2, options.heldout, heldout, options.most)
    make_whisper(options.folder / "whisper", options.most)


if __name__ == "__main__":
    main()
