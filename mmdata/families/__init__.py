"""Rows of a table: what a Hugging Face model family expects of its batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata import registry
from mmdata.families._family import Family
from mmdata.templates import Tokenizer

__all__ = ["Family", "get_family"]


def get_family(name: str, *, tokenizer: Tokenizer, image: Mapping[str, Any] | None = None) -> Family:
    """The family of this name for this tokenizer; `image` holds the parameters of its image view.

    Raises SpecError for an unknown name (naming the nearest), for wrong parameters, and for a tokenizer that lacks
    the family's placeholder.
    """
    family: Family = registry.lookup("family", name)(tokenizer, image)
    return family
