"""Rows of a table: what a Hugging Face model family expects of its batches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdata import registry
from mmdata.errors import SpecError
from mmdata.families._family import Family
from mmdata.families._settings import Settings, read_checkpoint
from mmdata.templates import Tokenizer
from mmdata.types import MediaKind

__all__ = ["Family", "get_family"]


def get_family(
    name: str,
    *,
    tokenizer: Tokenizer,
    image: Mapping[str, Any] | None = None,
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Family:
    """The family of this name for this tokenizer.

    `checkpoint` is a local folder whose processor and model files decide sizes, statistics and token counts; without
    one they are the published ones of the family's best-known checkpoint. `image`, `video` and `audio` hold parameters
    of the views, which win over both. Raises SpecError for an unknown name or parameter (naming the nearest), and for a
    tokenizer that lacks the family's placeholders.
    """
    build = registry.lookup("family", name)
    given: dict[MediaKind, Mapping[str, Any]] = {}
    if image:
        given["image"] = image
    if video:
        given["video"] = video
    if audio:
        given["audio"] = audio
    settings = Settings(
        given=given, checkpoint=None if checkpoint is None else read_checkpoint(Path(os.fspath(checkpoint)))
    )
    try:
        family: Family = build(tokenizer, settings)
    except SpecError as error:
        message = str(error)
        raise SpecError(message if message.startswith("family ") else f"family {name}: {message}") from error
    unknown = sorted(given.keys() - family.media.keys())
    if unknown:
        raise SpecError(f"family {name}: takes no {unknown[0]}, only {', '.join(sorted(family.media))}")
    return family
