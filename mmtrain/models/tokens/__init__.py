"""Tokens of pictures: tokenisers that are trained alone (`mmtrain.tokenize_images`), and their folders.

FOLDER/tokeniser.json      the spec
       model.safetensors   weights, codebook or scale
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file

from mmdata.errors import SpecError
from mmdata.shards.storage import write_atomic
from mmtrain.models.tokens.tokenisers import Kl, KlSpec, TokeniserSpec, Vq, VqSpec, make, read

__all__ = ["Kl", "KlSpec", "TokeniserSpec", "Vq", "VqSpec", "load", "make", "read", "save"]

SPEC, WEIGHTS = "tokeniser.json", "model.safetensors"


def save(folder: Path, tokeniser: Vq | Kl) -> None:
    """Write a tokeniser into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file({name: tensor.contiguous() for name, tensor in tokeniser.state_dict().items()}, temporary)
    temporary.replace(folder / WEIGHTS)
    write_atomic(folder / SPEC, json.dumps(tokeniser.spec.model_dump(), indent=1).encode())


def load(folder: Path, key: str = "tokeniser") -> Vq | Kl:
    """The tokeniser of a folder, in eval mode. Raises SpecError, naming `key`, where there is none."""
    try:
        tokeniser = make(read(json.loads((folder / SPEC).read_text())))
        tokeniser.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise SpecError(f"{key}: {folder} holds no tokeniser of pictures ({SPEC}, {WEIGHTS}): {first}") from error
    return tokeniser.eval()
