"""What the samples of a batch say of themselves besides their tokens (`data.carry`), one mapping for each segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = "fields"
"""The batch's entry."""


def fields_of(batch: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Of each segment; empty where the stream carries nothing."""
    found: Sequence[Mapping[str, Any]] = batch.get(FIELDS) or ()
    return found
