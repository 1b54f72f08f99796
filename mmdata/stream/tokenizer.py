"""What identifies a tokenizer: a digest of all that decides the ids of a text."""

from __future__ import annotations

import json

from mmdata.specfile import digest
from mmdata.templates import Tokenizer


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """Of what decides the ids of a text; padding and truncation, which the last call left behind, do not."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content = json.loads(backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
    else:
        content = {"class": type(tokenizer).__qualname__, "vocabulary": tokenizer.get_vocab()}  # type: ignore[attr-defined]
    content["special"] = [tokenizer.bos_token_id, tokenizer.eos_token_id, sorted(tokenizer.all_special_ids)]
    return digest(content)
