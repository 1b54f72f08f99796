"""The chat template of a checkpoint's processor, which older ones keep in a file that no tokenizer reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmdata.errors import SpecError


def take_processors(tokenizer: Any, path: str, *, local: bool) -> None:
    """Give a tokenizer the template of `chat_template.json` beside it, which writes the places of media; `local` says
    that nothing is to be fetched. A `chat_template.jinja` is newer, and the tokenizer has it by itself. Raises
    SpecError for a file that holds no template.
    """
    from transformers.utils.hub import cached_file

    def found(name: str) -> str | None:
        try:
            file: str | None = cached_file(
                path, name, local_files_only=local, _raise_exceptions_for_missing_entries=False
            )
        except OSError:
            return None
        return file

    if found("chat_template.jinja") is not None or (file := found("chat_template.json")) is None:
        return
    try:
        template = json.loads(Path(file).read_text())["chat_template"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{file}: holds no chat template: {error}") from error
    tokenizer.chat_template = template
