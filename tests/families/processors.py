"""Hugging Face processors from their classes' parameters, over one small tokenizer, and our families beside them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from mmdata.collate import PackedCollator, model_inputs
from mmdata.families._family import Family, expand, plan_media, views
from mmdata.stream.assemble import assemble
from mmdata.templates import MEDIUM, Encoded
from mmdata.types import Media, Packed, Span
from tests.dataset_fixture import photograph
from tests.tokenizer_fixture import small_tokenizer

Medium = tuple[Media, Any]


@functools.cache
def tokenizer(**named: str) -> PreTrainedTokenizerFast:
    """The small tokenizer with special tokens under the names that a processor asks for."""
    small = small_tokenizer()
    result = PreTrainedTokenizerFast(
        tokenizer_object=small.backend_tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", **named
    )
    result.add_special_tokens({"additional_special_tokens": sorted(set(named.values()))})
    return result


def image(pixels: np.ndarray) -> Medium:
    return Media(kind="image", height=pixels.shape[0], width=pixels.shape[1]), pixels


def batch(family: Family, samples: Sequence[Sequence[str | Medium]]) -> dict[str, Any]:
    """The batch of one pack of samples."""
    return model_inputs(PackedCollator()(packed(family, samples)))


def packed(family: Family, samples: Sequence[Sequence[str | Medium]], trained: int = 1) -> Packed:
    """One pack of samples, each of texts and media, none of their tokens trained but the last ones."""
    segments, plans, arrays = [], [], []
    for sample in samples:
        ids: list[int] = []
        media = [part for part in sample if not isinstance(part, str)]
        text = ""
        for part in sample:
            before, after = ("", "") if isinstance(part, str) else family.around.get(part[0].kind, ("", ""))
            text += part if isinstance(part, str) else before
            if not isinstance(part, str):
                ids += [*words(family, text), MEDIUM]
                text = after
        ids += words(family, text)
        facts = [medium for medium, _ in media]
        planned = plan_media(family, facts)
        encoded = Encoded(ids=ids, spans=(Span(len(ids) - trained, len(ids)),), media=tuple(facts))
        segments.append(expand(family, encoded, planned))
        plans.append(planned)
        arrays.append(
            [
                view.realize(source, plan).numpy()
                for view, plan, (_, source) in zip(views(family, facts), planned, media, strict=True)
            ]
        )
    return assemble(segments, plans, arrays, family, keys=tuple(map(str, range(len(samples)))))


def words(family: Family, text: str) -> list[int]:
    ids: list[int] = family.tokenizer([text], add_special_tokens=False, split_special_tokens=False)["input_ids"][0]
    return ids


def same(ours: dict[str, Any], theirs: dict[str, Any], names: Sequence[str], atol: float = 1e-5) -> None:
    for name in names:
        mine, other = ours[name], torch.as_tensor(np.asarray(theirs[name]))
        assert mine.shape == other.shape, (name, mine.shape, other.shape)
        assert mine.dtype == other.dtype, (name, mine.dtype, other.dtype)
        difference = (mine.double() - other.double()).abs().max()
        assert difference <= (atol if mine.is_floating_point() else 0), (name, difference)


SIZES = [(90, 131), (200, 60), (64, 64), (37, 301)]
PHOTOS = [photograph("china")[50 : 50 + height, 20 : 20 + width] for height, width in SIZES]


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
