"""Drop samples whose text is nearly that of an earlier kept sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from mmdata.registry import register
from mmdata.spec import OrderedState, OrderedStepSpec
from mmdata.steps import _minhash
from mmdata.steps._kept import Keys
from mmdata.steps._texts import Roles, document
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "text_near_dup")
class TextNearDup(OrderedStepSpec):
    """Drop a sample whose texts share most of their runs of words with those of an earlier kept sample, by MinHash and
    locality-sensitive hashing. It ends as `duplicate`, reason `text_near_dup`, with the key of the most similar kept
    sample. A pair of Jaccard similarity `jaccard` is found with probability 0.97 or more, more similar ones nearly
    always, equal ones always; a pair 0.1 less similar rarely. Words are compared in any case and punctuation.

    The main process holds about 0.9 KiB for each kept sample.
    """

    kind: Literal["text_near_dup"] = "text_near_dup"
    jaccard: float = Field(0.8, ge=0.5, le=1)
    """Runs of words that two texts have in common, as a share of those that either has."""
    shingle: int = Field(5, ge=1, le=20)
    """Words of a run. 5 suits documents; captions want 1 to 3, for one changed word changes so many runs."""
    min_words: int = Field(1, ge=1)
    """Texts of fewer words are not compared."""
    roles: Roles = ()
    """The texts that are compared, together, by role. Default: all."""

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        text = document(sample, self.roles)
        if len(_minhash.words(text)) < self.min_words:
            return {}
        return {"minhash": _minhash.signature(_minhash.shingles(text, self.shingle)).astype("<u4").tobytes()}

    def state(self) -> OrderedState:
        return _Kept(self.jaccard)


class _Kept:
    def __init__(self, jaccard: float) -> None:
        self._keys = Keys()
        self._index = _minhash.MinHashIndex(jaccard)

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        if "minhash" not in signature:
            return None
        near = self._index.nearest(np.frombuffer(signature["minhash"], "<u4"))
        if near is None:
            return None
        share, position = near
        detail = f"similarity about {share:.2f}"
        return Drop(reason="text_near_dup", detail=detail, state="duplicate", of=self._keys[position])

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        if "minhash" in signature:
            self._keys.append(key)
            self._index.add(np.frombuffer(signature["minhash"], "<u4"))
