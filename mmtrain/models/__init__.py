"""Models by spec: built from numbers, or loaded."""

from mmtrain.models.build import build
from mmtrain.models.families import (
    ends,
    family_of,
    media_tokens,
    tell_ends,
    templated,
    tokenizer_source,
    with_template,
)
from mmtrain.models.kept import keep, rebuild
from mmtrain.models.positions import check_positions

__all__ = [
    "build",
    "check_positions",
    "ends",
    "family_of",
    "keep",
    "media_tokens",
    "rebuild",
    "tell_ends",
    "templated",
    "tokenizer_source",
    "with_template",
]
