"""How samples become rows of a batch: several to a row with borders, or each padded to the longest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

from mmdata.collate import PaddedCollator
from mmdata.errors import SpecError
from mmdata.stream.spec import StreamSpec
from mmtrain.certificate import Certificate, Strategy
from mmtrain.collate import PackedCollator

Collate = Literal["auto", "packed", "padded"]


def collator(kind: Collate, strategy: Strategy, pad_id: int) -> PackedCollator | PaddedCollator:
    """The collator of a run: padded where that was asked for, or where the model must not be packed."""
    padded = kind == "padded" or (kind == "auto" and strategy == "single")
    return PaddedCollator(pad_id=pad_id) if padded else PackedCollator(pad_id=pad_id)


def check(found: Certificate, data: StreamSpec, kind: Collate, packs_per_forward: int) -> None:
    """Raises SpecError for packed rows of a model that mixes them up, and for a model that looks ahead."""
    if found.ahead:
        raise SpecError(f"model: {found}")
    if found.strategy != "single" or kind == "padded":
        return
    if data.packing != "none":
        raise SpecError(f"data.packing: {data.packing}: {found}; set data.packing: none, or collate: padded")
    several = packs_per_forward > 1 or data.batch_rows is not None or data.batch_tokens is not None
    if kind == "packed" and several:
        raise SpecError(f"collate: packed: {found}; set collate: padded, or give every sample a batch of its own")


def borders(batch: Mapping[str, Any]) -> torch.Tensor:
    """Where the samples of a batch begin and end when its rows are laid after each other, int [S + 1]: the borders of
    its one packed row, or the rows themselves."""
    if "cu_seq_lens_q" in batch:
        packed: torch.Tensor = batch["cu_seq_lens_q"]
        return packed
    rows, length = batch["input_ids"].shape
    return torch.arange(rows + 1, dtype=torch.int32, device=batch["input_ids"].device) * length
