"""What is trained and what sees what: spans to labels, borders, positions, and the dense mask they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mmdata.types import Span, SpanKind

IGNORE = -100
KINDS: tuple[SpanKind, ...] = ("response", "instruction", "special", "box", "entity")
"""In the order of their classes, from 1."""
PROMPT = 8
"""Added to the class of a token that is not part of an answer."""


def labels(ids: np.ndarray, spans: Iterable[Span]) -> tuple[np.ndarray, np.ndarray]:
    """Labels int64 [L] and loss weights float32 [L] of one segment.

    A label is the token itself inside a span (un-shifted, as Hugging Face models expect) and -100 outside; the
    first one is always -100, since the model's shift would let the segment before predict it.

    >>> labels(np.array([1, 9, 9, 5, 6, 2]), [Span(3, 6)])[0].tolist()     # 9 9: an image; 5 6 2: its caption
    [-100, -100, -100, 5, 6, 2]
    """
    result = np.full(len(ids), IGNORE, np.int64)
    weights = np.zeros(len(ids), np.float32)
    for span in spans:
        if not 0 <= span.start <= span.stop <= len(ids):
            raise ValueError(f"{span} lies outside a segment of {len(ids)} tokens")
        result[span.start : span.stop] = ids[span.start : span.stop]
        weights[span.start : span.stop] = span.weight
    result[:1] = IGNORE
    weights[:1] = 0
    return result, weights


def token_classes(length: int, spans: Iterable[Span]) -> np.ndarray:
    """What each trained token of one segment is, int8 [L]: 1 + the place of its kind in `KINDS`, + `PROMPT` outside of
    answers; 0 where nothing is trained.

    >>> spans = [Span(1, 3, kind="instruction", answer=False), Span(3, 5), Span(5, 6, kind="special")]
    >>> token_classes(6, spans).tolist()
    [0, 10, 10, 1, 1, 3]
    """
    result = np.zeros(length, np.int8)
    for span in spans:
        result[span.start : span.stop] = 1 + KINDS.index(span.kind) + (0 if span.answer else PROMPT)
    result[:1] = 0
    return result


def cu_seqlens(lengths: Sequence[int]) -> np.ndarray:
    """Cumulative borders, int32 [S + 1], of segments of these lengths.

    >>> cu_seqlens([3, 1, 4]).tolist()
    [0, 3, 4, 8]
    """
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)


def positions(cu: np.ndarray) -> np.ndarray:
    """int64 [L]: 0, 1, 2, ... anew in every segment.

    >>> positions(cu_seqlens([3, 1, 2])).tolist()
    [0, 1, 2, 0, 0, 1]
    """
    lengths = np.diff(cu)
    return np.arange(cu[-1], dtype=np.int64) - np.repeat(cu[:-1].astype(np.int64), lengths)


def segment_ids(cu: np.ndarray) -> np.ndarray:
    """int32 [L]: the number of each token's segment.

    >>> segment_ids(cu_seqlens([3, 1, 2])).tolist()
    [0, 0, 0, 1, 2, 2]
    """
    return np.repeat(np.arange(len(cu) - 1, dtype=np.int32), np.diff(cu))


def dense_mask(cu: np.ndarray) -> np.ndarray:
    """bool [L, L], the reference that `cu` stands for: query i sees key j iff same segment and j <= i.

    >>> dense_mask(cu_seqlens([2, 1])).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    segments = segment_ids(cu)
    return np.asarray(np.tril(segments[:, None] == segments[None, :]))
