"""The collator: packs to the batch that a Hugging Face model takes, borders included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmdata.families._join import joined_again, lead
from mmdata.labels import IGNORE, segment_ids
from mmdata.types import Packed

OWN_KEYS = frozenset(
    {
        "keys",
        "packs",
        "targets",
        "loss_weights",
        "media_tokens",
        "padding",
        "token_classes",
        "tasks",
        "sample_weights",
        "fields",
        "places",
        "answers",
    }
)
"""What a batch carries for the trainer; a model's `forward` never sees it."""

MASK = "attention_mask"
MROPE_TYPES = ("mm_token_type_ids",)
"""What M-RoPE models read beside grids, where a pack does not say what its family's do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedCollator:
    """One Packed, or several after each other, as one row (B = 1) of T tokens.

    | key | value |
    |---|---|
    | `input_ids`, `labels` | int64 [1, T]; labels un-shifted, -100 where nothing is trained and at every border |
    | `position_ids` | int64 [1, T], anew in every segment; [4, 1, T] for M-RoPE: those, then time, height, width |
    | `cu_seq_lens_q`, `cu_seq_lens_k` | int32 [S + 1], from 0 to T |
    | `max_length_q`, `max_length_k` | int, the longest segment |
    | `seq_idx` | int32 [1, T], number of the segment |
    | `use_cache` | False |
    | the family's token types | int64 [1, T], 0 in the padding |
    | the family's media | joined in the order of their placeholders, see `mmdata.types.Join` |
    | `loss_weights` | float32 [1, T] (ours) |
    | `keys` | list of the samples' keys; a dummy pack has none (ours) |
    | `packs` | int, packs that are no dummies (ours) |
    | `tasks`, `sample_weights` | list of words, float32 [S]: of each segment, '' and 1 for dummies (ours) |
    | `fields` | list of mappings, of each segment, where the stream carries any (ours) |
    | `places`, `answers` | of each segment (dataset, position) and `chosen`, `rejected` or '', with pairs (ours) |
    | `token_classes` | int8 [1, T], what each trained token is (ours) |
    | `targets` | int, labels that are not -100: the batch's own count, to be summed over the step (ours) |
    | `media_tokens`, `padding` | int, placeholders of media among the tokens; tokens that fill rows up (ours) |

    There is no `attention_mask`: any, even all ones, would switch the isolation of segments off.
    With `pad_to`, T is exactly that; with `multiple`, T is rounded up. The padding of `pad_id` is a last segment
    of its own. Raises ValueError for packs that do not fit, for a `pad_id` that stands for a medium, and for all that
    would leak from sample to sample or train something else than it seems to (`_checked`).
    """

    pad_id: int = 0
    pad_to: int | None = None
    multiple: int = 1
    owned: bool = False
    """Nobody else looks at the packs, so that the media of one alone need not be copied. A `StreamLoader` sets it."""

    def __call__(self, packs: Packed | Sequence[Packed]) -> dict[str, Any]:
        packs = [packs] if isinstance(packs, Packed) else list(packs)
        if not packs:
            raise ValueError("no pack to collate")
        _checked(packs)
        length = sum(len(pack.input_ids) for pack in packs)
        padding = self._padding(length)
        if padding and any(self.pad_id in _placeholders(pack) for pack in packs):
            raise ValueError(f"pad_id {self.pad_id} is the placeholder of a medium")
        firsts = np.cumsum([0, *(len(pack.input_ids) for pack in packs)])
        cu = [pack.cu_seqlens[:-1] + first for pack, first in zip(packs, firsts, strict=False)]
        cu_seqlens = np.concatenate([*cu, [length], [length + padding] if padding else []]).astype(np.int32)
        if len(cu_seqlens) > 2 and any(MASK in pack.media for pack in packs):
            raise ValueError(f"{MASK} in a row of several samples: it would switch their isolation off; one a row")
        labels = _padded([pack.labels for pack in packs], padding, IGNORE, np.int64)
        longest = int(np.diff(cu_seqlens).max())
        borders = torch.from_numpy(cu_seqlens)
        return {
            "input_ids": torch.from_numpy(_padded([pack.input_ids for pack in packs], padding, self.pad_id, np.int64)),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(_positions(packs, padding)),
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": longest,
            "max_length_k": longest,
            "seq_idx": torch.from_numpy(segment_ids(cu_seqlens)[None]),
            "use_cache": False,
            **_token_arrays(packs, padding),
            **_media(packs, owned=self.owned),
            "loss_weights": torch.from_numpy(_padded([pack.loss_weights for pack in packs], padding, 0, np.float32)),
            "keys": [key for pack in packs for key in pack.keys],
            "packs": sum(1 for pack in packs if pack.keys),
            **_told(packs, 1 if padding else 0),
            "token_classes": torch.from_numpy(_padded([_classes(pack) for pack in packs], padding, 0, np.int8)),
            "targets": int((labels != IGNORE).sum()),
            "media_tokens": _media_tokens(packs),
            "padding": padding,
        }

    def _padding(self, length: int) -> int:
        if self.pad_to is None:
            return -length % self.multiple
        if length > self.pad_to:
            raise ValueError(f"{length} tokens do not fit into pad_to={self.pad_to}")
        return self.pad_to - length


@dataclass(frozen=True, slots=True, kw_only=True)
class PaddedCollator:
    """Every segment of one Packed, or of several, as a row of its own, for models or hardware that cannot pack.

    | key | value |
    |---|---|
    | `input_ids`, `labels` | int64 [B, L]; labels un-shifted, -100 where nothing is trained and in the padding |
    | `attention_mask` | int64 [B, L], 1 for tokens, 0 for padding, which comes last |
    | `position_ids` | int64 [B, L]; [4, B, L] for M-RoPE; 0 in the padding |
    | `use_cache` | False |
    | the family's token types | int64 [B, L], 0 in the padding |
    | the family's media | joined in the order of their placeholders, as in a packed row |
    | `loss_weights`, `keys`, `targets`, `media_tokens`, `padding` | as `PackedCollator` has them (ours) |

    L is the longest segment, rounded up to `multiple`. Give the stream `packing: none` with `batch_tokens` or
    `batch_rows`, so that rows of like length come together. Raises ValueError as `PackedCollator` does.
    """

    pad_id: int = 0
    multiple: int = 1

    def __call__(self, packs: Packed | Sequence[Packed]) -> dict[str, Any]:
        packs = [packs] if isinstance(packs, Packed) else list(packs)
        if not packs:
            raise ValueError("no pack to collate")
        _checked(packs)
        if any(MASK in pack.media for pack in packs):
            raise ValueError(f"{MASK} belongs to the media of this family, which has no padded rows of text")
        if any(self.pad_id in _placeholders(pack) for pack in packs):
            raise ValueError(f"pad_id {self.pad_id} is the placeholder of a medium")
        longest = max(int(np.diff(pack.cu_seqlens).max()) for pack in packs)
        length = -(-longest // self.multiple) * self.multiple

        def rows(name: str, value: int, dtype: type) -> torch.Tensor:
            return torch.from_numpy(_rows([(getattr(pack, name), pack) for pack in packs], length, value, dtype))

        ones = [(np.ones(len(pack.input_ids), np.int64), pack) for pack in packs]
        labels = rows("labels", IGNORE, np.int64)
        types = {
            name: torch.from_numpy(_rows([(pack.token_arrays[name], pack) for pack in packs], length, 0, np.int64))
            for name in _type_names(packs)
        }
        return {
            "input_ids": rows("input_ids", self.pad_id, np.int64),
            "labels": labels,
            "attention_mask": torch.from_numpy(_rows(ones, length, 0, np.int64)),
            "position_ids": rows("position_ids", 0, np.int64),
            "use_cache": False,
            **types,
            **_media(packs),
            "loss_weights": rows("loss_weights", 0, np.float32),
            "keys": [key for pack in packs for key in pack.keys],
            "packs": sum(1 for pack in packs if pack.keys),
            **_told(packs, 0),
            "token_classes": torch.from_numpy(_rows([(_classes(pack), pack) for pack in packs], length, 0, np.int8)),
            "targets": int((labels != IGNORE).sum()),
            "media_tokens": _media_tokens(packs),
            "padding": labels.numel() - sum(len(pack.input_ids) for pack in packs),
        }


def model_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The part of a batch that `forward` takes."""
    return {key: value for key, value in batch.items() if key not in OWN_KEYS}


def _checked(packs: list[Packed]) -> None:
    """Raises ValueError for packs that a model would take without a word and read otherwise than they are meant."""
    for pack in packs:
        length, cu = len(pack.input_ids), pack.cu_seqlens
        if cu[0] != 0 or cu[-1] != length or (np.diff(cu) <= 0).any():
            raise ValueError(f"cu_seqlens {cu.tolist()} do not cut {length} tokens: they go from 0 up to {length}")
        for name, array in (("labels", pack.labels), ("loss_weights", pack.loss_weights), *pack.token_arrays.items()):
            if array.shape != (length,):
                raise ValueError(f"{name} has the shape {array.shape}, for {length} tokens")
        if (pack.labels[cu[:-1]] != IGNORE).any():
            raise ValueError("a segment's first label is trained: the segment before would predict it")
        if any((pack.labels[slot.start : slot.start + slot.length] != IGNORE).any() for slot in pack.slots):
            raise ValueError("the placeholder of a medium is trained: its label is not -100")
        if MASK in pack.token_arrays:
            raise ValueError(f"{MASK} beside cu_seqlens: it would switch the isolation of segments off")
        if pack.position_ids.shape not in ((length,), (4, length)):
            raise ValueError(
                f"position_ids of the shape {pack.position_ids.shape}: [L], or for M-RoPE [4, L], whose first row "
                "counts tokens; of three rows a model cannot tell where a segment begins"
            )
        grids = any(name.endswith("_grid_thw") for name in pack.media)
        asked = pack.type_ids if pack.type_ids is not None else MROPE_TYPES * (pack.position_ids.ndim == 2 and grids)
        if missing := [name for name in asked if name not in pack.token_arrays]:
            raise ValueError(f"{missing[0]} is missing: without it the model takes placeholders of media for text")
    _checked_positions(packs)


def _checked_positions(packs: list[Packed]) -> None:
    text = np.concatenate([np.atleast_2d(pack.position_ids)[0] for pack in packs])
    begins = np.zeros(len(text), bool)
    first = 0
    for pack in packs:
        begins[first + pack.cu_seqlens[:-1]] = True
        first += len(pack.input_ids)
    if ((np.diff(text) == 1) == begins[1:]).any():
        raise ValueError("position_ids do not count by one inside the segments and begin anew in each")


def _media_tokens(packs: list[Packed]) -> int:
    """Placeholders in the rows; an encoder-decoder's media have no place in them."""
    return sum(slot.tokens for pack in packs for slot in pack.slots if slot.length)


def _classes(pack: Packed) -> np.ndarray:
    """int8 [L]; a trained token of which nothing is known is an answer's."""
    if pack.token_classes is not None:
        return pack.token_classes
    trained: np.ndarray = (pack.labels != IGNORE).astype(np.int8)
    return trained


def _told(packs: list[Packed], more: int) -> dict[str, Any]:
    """Of each segment, what it is counted under, what it weighs, what is carried of it; `more` hold nothing."""
    tasks: list[str] = []
    weights: list[float] = []
    places: list[tuple[int, int]] = []
    answers: list[str] = []
    fields: list[Mapping[str, Any]] = []
    for pack in packs:
        segments = len(pack.cu_seqlens) - 1
        tasks += pack.tasks or [""] * segments
        weights += pack.sample_weights or [1.0] * segments
        places += pack.places or [(-1, -1)] * segments
        answers += pack.answers or [""] * segments
        fields += pack.fields or [{}] * segments
    carried: dict[str, Any] = {"fields": fields + [{}] * more} if any(pack.fields for pack in packs) else {}
    if any(answers):
        carried |= {"places": places + [(-1, -1)] * more, "answers": answers + [""] * more}
    return {"tasks": tasks + [""] * more, "sample_weights": torch.tensor(weights + [1.0] * more), **carried}


def _placeholders(pack: Packed) -> set[int]:
    """The tokens that stand in media's places, markers included."""
    return {int(token) for slot in pack.slots for token in pack.input_ids[slot.start : slot.start + slot.length]}


def _padded(arrays: list[np.ndarray], padding: int, value: int, dtype: type) -> np.ndarray:
    return np.concatenate([*arrays, np.full(padding, value)]).astype(dtype)[None]


def _positions(packs: list[Packed], padding: int) -> np.ndarray:
    """[1, T], or [4, 1, T]; the padding counts from 0 in every row."""
    arrays = [pack.position_ids for pack in packs]
    if len({array.ndim for array in arrays}) > 1:
        raise ValueError("packs of one batch have plain and M-RoPE positions")
    tail = np.broadcast_to(np.arange(padding), (*arrays[0].shape[:-1], padding))
    return np.concatenate([*arrays, tail], axis=-1).astype(np.int64)[..., None, :]


def _rows(arrays: list[tuple[np.ndarray, Packed]], length: int, value: int, dtype: type) -> np.ndarray:
    """[..., B, length]: each segment of each array [..., L] as a row, filled up with `value`."""
    segments = [
        array[..., start:stop]
        for array, pack in arrays
        for start, stop in zip(pack.cu_seqlens[:-1].tolist(), pack.cu_seqlens[1:].tolist(), strict=True)
    ]
    result = np.full((*segments[0].shape[:-1], len(segments), length), value, dtype)
    for row, segment in enumerate(segments):
        result[..., row, : segment.shape[-1]] = segment
    return result


def _type_names(packs: list[Packed]) -> list[str]:
    names = packs[0].token_arrays.keys()
    if any(pack.token_arrays.keys() != names for pack in packs):
        raise ValueError("packs of one batch have different kinds of token types")
    return list(names)


def _token_arrays(packs: list[Packed], padding: int) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(_padded([pack.token_arrays[name] for pack in packs], padding, 0, np.int64))
        for name in _type_names(packs)
    }


def _media(packs: list[Packed], *, owned: bool = False) -> dict[str, torch.Tensor]:
    names = dict.fromkeys(name for pack in packs for name in pack.media)
    result = {}
    for name in names:
        having = [pack for pack in packs if name in pack.media]
        how = having[0].joins.get(name, "concat")
        whole = joined_again([pack.media[name] for pack in having], how, owned=owned)
        result[name] = torch.from_numpy(lead(whole, how))
    return result
