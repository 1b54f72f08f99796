"""Datasets of any size that take no room: facts and token counts follow from positions, so that plans can be tried."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from mmdata.stream.lengths import Texts
from mmdata.types import Media, Place

SIZES = 512
"""Different pictures' sizes."""


class SyntheticDataset:
    """What a planner asks of a dataset, for `samples` pictures with captions in shards of `per_shard` rows; of some, a
    share of `text_only`, there is no picture. Nothing is stored but where shards begin; there are no bytes to read."""

    def __init__(self, samples: int, per_shard: int = 1000, name: str = "synthetic", *, text_only: float = 0.0) -> None:
        self.path = Path("/") / name
        self.shard_firsts = np.append(np.arange(0, samples, per_shard), samples).astype(np.int64)
        self.shard_rows = np.diff(self.shard_firsts)
        self.manifest = SimpleNamespace(root_digest=f"{samples:064x}", samples=samples)
        self._text_only = round(1024 * text_only)
        sides = [(200 + 37 * number % 900, 200 + 61 * number % 900) for number in range(SIZES)]
        place = Place(offset=0, size=1, crc32c=0)
        self._media = [
            (Media(kind="image", format="jpeg", mode="RGB", height=height, width=width, place=place),)
            for height, width in sides
        ]

    def __len__(self) -> int:
        return int(self.shard_firsts[-1])

    def removals(self) -> tuple[()]:
        return ()

    def keys_at(self, positions: npt.NDArray[np.int64]) -> list[str]:
        return [f"{position:012d}" for position in positions.tolist()]

    def media_at(self, positions: npt.NDArray[np.int64]) -> list[tuple[Media, ...]]:
        numbers = scattered(positions)
        media = (numbers % SIZES).tolist()
        if not self._text_only:
            return [self._media[number] for number in media]
        # Other bits than those that say how large a picture is, or how long a text.
        bare = ((numbers // (SIZES * 1024)) % 1024 < self._text_only).tolist()
        return [() if without else self._media[number] for number, without in zip(media, bare, strict=True)]


class SyntheticLengths:
    """In the place of `mmdata.stream.lengths.Lengths`: 5 to 260 tokens of text by position, short ones more often."""

    def __init__(self, *_: object) -> None:
        pass

    def at(self, positions: npt.NDArray[np.int64]) -> Texts:
        share = (scattered(positions) // SIZES % 1024) / 1024
        tokens = (5 + 255 * share**3).astype(np.int32)
        return Texts(tokens=tokens, targets=tokens - 1)


def tokenizer() -> Any:
    """A tokenizer of three words, for families whose pictures stand in texts as `<image>`: it is needed to plan, and
    reads nothing."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made: Any = PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({"<unk>": 0, "<image>": 1, "</s>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return made(tokenizer_object=words, unk_token="<unk>", eos_token="</s>", additional_special_tokens=["<image>"])


def scattered(positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A number below 2^31 for each position that looks like chance (Knuth's multiplicative hashing)."""
    mixed = positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(33)).astype(np.int64)
