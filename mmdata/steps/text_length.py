"""Count a sample's characters, words and tokens, and drop what is too short or too long."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from mmdata.registry import register
from mmdata.spec import InputPath, StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._texts import Roles, chosen
from mmdata.steps.caption_length import characters, words
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "text_length")
class TextLength(StepSpec):
    """Count over all texts of a sample together (`caption_length` looks at each caption by itself), write the numbers
    as columns `chars`, `words` and `tokens`, and drop samples outside the bounds. Characters and words are counted as
    `caption_length` does."""

    kind: Literal["text_length"] = "text_length"
    roles: Roles = ()
    """The texts that count, by role. Default: all."""
    min_chars: int = Field(0, ge=0)
    max_chars: int | None = Field(None, ge=1)
    min_words: int = Field(0, ge=0)
    max_words: int | None = Field(None, ge=1)
    tokenizer: InputPath | None = None
    """Folder of a checkpoint with a `tokenizer.json`, or such a file. Without one no tokens are counted."""
    min_tokens: int = Field(0, ge=0)
    """Tokens are counted without those that a template or the tokenizer puts around a text."""
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for unit in ("chars", "words", "tokens"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if high is not None and low > high:
                raise ValueError(f"min_{unit} {low} is more than max_{unit} {high}: nothing would be kept")
        if self.tokenizer is None and (self.min_tokens or self.max_tokens is not None):
            raise ValueError("min_tokens and max_tokens need `tokenizer`")
        if self.tokenizer is not None:
            _tokenizer(self.tokenizer)
        return self

    def prepare(self) -> None:
        if self.tokenizer is not None:
            _tokenizer(self.tokenizer)

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        texts = chosen(sample, self.roles)
        counts = {"chars": sum(map(characters, texts)), "words": sum(map(words, texts))}
        if self.tokenizer is not None:
            tokenizer = _tokenizer(self.tokenizer)
            counts["tokens"] = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts)
        for unit, count in counts.items():
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if count < low:
                return Drop(reason=self.kind, detail=f"{count} {unit}, fewer than {low}")
            if high is not None and count > high:
                return Drop(reason=self.kind, detail=f"{count} {unit}, more than {high}")
        return with_columns(sample, counts)


@lru_cache(maxsize=4)
def _tokenizer(path: str) -> Any:
    from tokenizers import Tokenizer

    file = Path(path) / "tokenizer.json" if Path(path).is_dir() else Path(path)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises `Exception` itself
        raise ValueError(f"tokenizer: {file}: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
