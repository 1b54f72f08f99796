"""Rows of a table: what a Hugging Face model family expects of its batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mmdata import registry
from mmdata.errors import SpecError
from mmdata.families._family import Family, View, views
from mmdata.families._settings import Settings, read_checkpoint
from mmdata.templates import Tokenizer
from mmdata.types import Media, MediaKind

__all__ = ["Family", "Views", "family_views", "get_family"]

Views = Callable[[Sequence[Media]], tuple[View, ...]]
"""The view of each medium of a sample. Raises DataError `media_kind` for a kind that the family does not take."""


def get_family(
    name: str,
    *,
    tokenizer: Tokenizer,
    image: Mapping[str, Any] | None = None,
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    mrope: Literal["max", "transformers"] = "max",
) -> Family:
    """The family of this name for this tokenizer.

    `checkpoint` is a local folder whose processor and model files decide sizes, statistics and token counts; without
    one they are the published ones of the family's best-known checkpoint. `image`, `video` and `audio` hold parameters
    of the views, which win over both. `mrope` says where families with M-RoPE go on after a video: as the checkpoints
    were trained, or as the installed transformers does (`mmdata.views.mrope`).

    Raises SpecError for an unknown name or parameter (naming the nearest), and for a tokenizer that lacks the family's
    placeholders.
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
    return family if family.positions == "plain" else replace(family, mrope=mrope)


def family_views(
    name: str,
    *,
    image: Mapping[str, Any] | None = None,
    video: Mapping[str, Any] | None = None,
    audio: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Views:
    """The views of `get_family` alone, which need no tokenizer. Raises SpecError as it does, but for tokenizers."""
    family = get_family(name, tokenizer=_AnyToken(), image=image, video=video, audio=audio, checkpoint=checkpoint)
    return functools.partial(views, family)


class _AnyToken:
    """Stands for a tokenizer that has every special token, where nothing will be tokenised."""

    def __init__(self) -> None:
        self.bos_token_id: int | None = 0
        self.eos_token_id: int | None = 0
        self.pad_token_id: int | None = 0
        self.all_special_ids = [0]

    def __call__(self, text: list[str], *, add_special_tokens: bool, split_special_tokens: bool) -> Any:
        raise AssertionError("a family's views alone were asked for")

    def convert_tokens_to_ids(self, tokens: str) -> Any:
        return 0
