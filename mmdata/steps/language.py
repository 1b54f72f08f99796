"""Identify the language of a sample's texts, and keep those that are wanted."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from mmdata.registry import nearest, register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._texts import Roles, document
from mmdata.steps.caption_length import characters
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

PLACES = 4


@register("step", "language")
class Language(StepSpec):
    """Write the language of a sample's texts as a column `language` (ISO 639) and how sure that is as
    `language_score`, 0 to 1; drop samples of other languages, as `language`, and unsure ones, as `language_score`.

    It is langid.py's naive Bayes over byte n-grams (Lui and Baldwin, "langid.py: An Off-the-shelf Language
    Identification Tool", ACL 2012) with the model that comes with `pip install py3langid` (BSD licence). A few words
    are too few for it: of a short text both columns are null, and it passes.
    """

    kind: Literal["language"] = "language"
    accept: tuple[str, ...] = ()
    """The languages that are kept, for example `[en, de]`. Default: all."""
    min_score: float = Field(0.0, ge=0, le=1)
    """Least score."""
    min_chars: int = Field(20, ge=1)
    """Shorter texts are not judged."""
    roles: Roles = ()
    """The texts that are looked at, by role. Default: all."""

    @field_validator("accept")
    @classmethod
    def _known(cls, accept: tuple[str, ...]) -> tuple[str, ...]:
        known = sorted(map(str, _identifier().labels))
        for name in accept:
            if name not in known:
                raise ValueError(f"no language is called {name!r}; {nearest(name, known)}")
        return accept

    def prepare(self) -> None:
        _identifier()

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        text = document(sample, self.roles)
        if characters(text) < self.min_chars:
            return with_columns(sample, {"language": None, "language_score": None})
        name, score = _identifier().classify(text)
        score = round(float(score), PLACES)
        if self.accept and name not in self.accept:
            return Drop(reason=self.kind, detail=f"{name} ({score:g})")
        if score < self.min_score:
            return Drop(reason="language_score", detail=f"{name}, {score:g} below {self.min_score:g}")
        return with_columns(sample, {"language": str(name), "language_score": score})


@cache
def _identifier() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise ValueError("language: needs py3langid; pip install 'mmdata[language]'") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
