"""Small files of every medium, sound and damaged, as the sources of a mixture list them: real files, made once."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile
from PIL import Image

from mmdata.rng import generator

SHARES = {"pictures": 8, "chat": 5, "texts": 3, "speech": 3, "films": 1}
"""How many of 20 records come of each source."""
RATE = 16_000
SPOKEN = """
a an the one two three old new small large red green quiet bright wooden narrow river house garden bridge dog cat
child woman man boat train window table mountain market street lamp stands walks crosses holds shows follows near
under behind beside before with without of in on at and but while slowly often today
"""
WORDS = np.array(SPOKEN.split())
SUFFIX = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "gif": ".gif", "wav": ".wav", "flac": ".flac", "ogg": ".ogg"}
Made = tuple[str, bytes]
"""The name of a file, and what is in it."""


def write(folder: Path, records: int, seed: int = 0) -> dict[str, Any]:
    """Write the files of `records` records below `folder`, unless they are there, and return the source that lists
    them. One in ten is damaged, of a wrong type, missing, flat, tiny, or a copy of one before it."""
    counts = {name: records * share // sum(SHARES.values()) for name, share in SHARES.items()}
    made = folder / "made.json"
    if not made.exists() or json.loads(made.read_text()) != {"counts": counts, "seed": seed}:
        shutil.rmtree(folder, ignore_errors=True)
        for name in SHARES:
            (folder / name).mkdir(parents=True)
        _captioned(folder / "pictures", counts["pictures"], seed)
        for name, lines in {"chat": _chat, "texts": _texts, "speech": _speech, "films": _films}.items():
            with open(folder / name / "list.jsonl", "w", encoding="utf-8") as file:
                for line in lines(folder / name, counts[name], seed):
                    file.write(json.dumps(line) + "\n")
        made.write_text(json.dumps({"counts": counts, "seed": seed}))
    listed: dict[str, dict[str, Any]] = {
        "pictures": {"kind": "folder", "path": str(folder / "pictures")},
        "chat": {"kind": "jsonl", "path": str(folder / "chat/list.jsonl")},
        "texts": {"kind": "jsonl", "path": str(folder / "texts/list.jsonl")},
        "speech": {"kind": "audio", "form": "nemo", "path": str(folder / "speech/list.jsonl")},
        "films": {"kind": "video", "path": str(folder / "films/list.jsonl")},
    }
    parts = [{"name": name, "weight": SHARES[name], "source": source} for name, source in listed.items()]
    return {"kind": "mixture", "sources": parts}


def sentence(random: np.random.Generator, words: int) -> str:
    return " ".join(random.choice(WORDS, words)) + "."


def _captioned(folder: Path, count: int, seed: int) -> None:
    for number in range(count):
        random = generator(seed, "picture", number)
        name, data = _file("pictures", number, random, seed, _picture)
        (folder / name).write_bytes(data)
        (folder / name).with_suffix(".txt").write_text(sentence(random, int(random.integers(6, 20))))


def _chat(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        random = generator(seed, "chat", number)
        names = []
        for each in range(1 + (number % 8 == 0)):
            name, data = _file("chat", 2 * number + each, random, seed, _picture)
            if number % 40 != 13:  # or it is missing
                (folder / name).write_bytes(data)
            names.append(name)
        asked = "<image>\n" * len(names) + sentence(random, 8)
        said = [asked, sentence(random, 12), sentence(random, 6), sentence(random, 25)]
        turns = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(said)]
        yield {"image": names, "conversations": turns}


def _texts(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        copied = number - 7 if number % 20 == 19 else number
        random = generator(seed, "text", copied)
        lines = [sentence(random, int(random.integers(8, 30))) for _ in range(int(random.integers(2, 9)))]
        if number % 25 == 3:
            lines = [lines[0]] * 6  # repeats itself
        if copied != number:
            lines[-1] = "Or so they say."
        yield {"text": "\n".join(lines), "image": [], "page": number}


def _speech(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        random = generator(seed, "speech", number)
        name, data = _file("speech", number, random, seed, _sound)
        (folder / name).write_bytes(data)
        yield {"audio_filepath": name, "duration": 1.0, "text": sentence(random, 5)}


def _films(folder: Path, count: int, seed: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        random = generator(seed, "film", number)
        name, data = _file("films", number, random, seed, _film)
        (folder / name).write_bytes(data)
        yield {"video": name, "caption": sentence(random, 9)}


def _file(
    what: str, number: int, random: np.random.Generator, seed: int, make: Callable[[np.random.Generator], Made]
) -> Made:
    """A file of its own, or one that is wrong in its turn."""
    suffix, data = make(random)
    turn = number % 50
    if turn == 11:
        data = data[: len(data) // 2]
    elif turn == 22:
        data = b"<!DOCTYPE html><title>404</title>" * 9
    elif turn == 33:
        data = b""
    elif turn in (44, 45):  # a copy of the file ten before it, which is a whole one
        suffix, data = make(generator(seed, {"pictures": "picture", "films": "film"}.get(what, what), number - 10))
    return f"{number:06d}{suffix}", data


def _picture(random: np.random.Generator) -> Made:
    """A smooth field with grain, 96 to 480 pixels wide; some are flat, some tiny."""
    width, height = int(random.integers(96, 481)), int(random.integers(96, 361))
    kind = random.random()
    if kind < 0.02:
        width, height = 20, 14
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    if kind > 0.98:
        coarse[:] = coarse[0, 0]
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    if kind <= 0.98:
        smooth = (smooth.astype(np.int16) + random.integers(-9, 10, (height, width, 1))).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(smooth)
    form = str(random.choice(["jpeg", "png", "webp", "gif"], p=[0.7, 0.1, 0.15, 0.05]))
    out = io.BytesIO()
    if form == "gif":
        picture.quantize(64, Image.Quantize.FASTOCTREE).save(out, "GIF")
    elif form == "png":
        picture.save(out, "PNG", compress_level=1)
    else:
        picture.save(
            out, form.upper(), quality=int(random.integers(60, 95)), **({"method": 0} if form == "webp" else {})
        )
    return SUFFIX[form], out.getvalue()


def _sound(random: np.random.Generator) -> Made:
    """About a second of coloured noise in bursts over a hum; some hold hardly anything."""
    time = np.arange(int(RATE * random.uniform(0.7, 1.4))) / RATE
    voice = np.convolve(random.standard_normal(len(time)), np.ones(8) / 8, "same")
    wave = 0.3 * voice * (np.sin(2 * np.pi * random.uniform(2, 5) * time) > -0.4)
    wave += 0.1 * np.sin(2 * np.pi * random.uniform(90, 300) * time)
    if random.random() < 0.03:
        wave *= 1e-4
    form = str(random.choice(["wav", "flac", "ogg"]))
    out = io.BytesIO()
    soundfile.write(out, wave.clip(-1, 1).astype(np.float32), RATE, format=form.upper())
    return SUFFIX[form], out.getvalue()


def _film(random: np.random.Generator) -> Made:
    """8 to 16 frames of 64 x 64: a window that moves over a field, or stands still."""
    coarse: npt.NDArray[np.uint8] = random.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    whole = np.asarray(Image.fromarray(coarse).resize((160, 96), Image.Resampling.BICUBIC))
    count, step = int(random.integers(8, 17)), int(random.integers(0, 5))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        track: Any = file.add_stream("libx264", rate=8)
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        track.options = {"preset": "ultrafast"}
        track.codec_context.thread_count = 1
        for at in range(count):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(whole[16:80, at * step : at * step + 64]), format="rgb24"
            )
            frame.pts, frame.time_base = at, Fraction(1, 8)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    return ".mp4", out.getvalue()
