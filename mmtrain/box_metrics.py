"""How good the boxes and points of an answer are: IoU, accuracy at IoU 0.5, and pointing. Pure, on texts.

Boxes are read out of generated text as `mmdata.boxes` reads them, in shares of the picture's sides: IoU does not change
when an axis is stretched, so no picture is needed. What is no box is passed over, swapped corners are put in order. A
box of the reference is matched with at most one of the answer, likeliest pairs first (greatest IoU).
"""

from __future__ import annotations

from collections.abc import Sequence

from mmdata.boxes import Box, BoxFormat, parse_boxes
from mmdata.boxes.points import centre, parse_points
from mmtrain.event_metrics import most_pairs

RIGHT = 0.5
"""The IoU from which on a box is right (RefCOCO's accuracy)."""
UNIT = (1, 1)


def box_iou(answer: str, references: Sequence[str], coordinates: BoxFormat) -> float:
    """The sum of the matched boxes' IoU over the boxes of the reference or the answer, whichever has more; the best
    over the references. Where neither has a box, and nothing is what was to be found, it is 1.

    >>> box_iou("<box>[[0, 0, 500, 1000]]</box>", ["<box>[[0, 0, 1000, 1000]]</box>"], "internvl")
    0.5
    """
    return max(_mean(_matched(_boxes(answer, coordinates), _boxes(each, coordinates))) for each in references)


def box_accuracy(answer: str, references: Sequence[str], coordinates: BoxFormat) -> float:
    """The same of pairs with an IoU of 0.5 or more, each counting 1: of one box, RefCOCO's accuracy."""

    def one(reference: str) -> float:
        found = _matched(_boxes(answer, coordinates), _boxes(reference, coordinates))
        return _mean(None if found is None else [float(value >= RIGHT) for value in found])

    return max(map(one, references))


def pointing(answer: str, references: Sequence[str], coordinates: BoxFormat) -> float:
    """The share of the reference's boxes, or of what the answer points at, whichever is more, that are hit: a point
    between tags, or the middle of a box where there is none, lies in a box that no other one has hit, as many as can be
    (the pointing game: Zhang et al. 2016, arXiv 1608.00507, §5)."""

    def one(reference: str) -> float:
        wanted = _boxes(reference, coordinates)
        points = parse_points(answer, UNIT) or [centre(box) for box in _boxes(answer, coordinates)]
        if not wanted and not points:
            return 1.0
        hits = most_pairs(
            [
                [at for at, box in enumerate(wanted) if box[0] <= x <= box[2] and box[1] <= y <= box[3]]
                for x, y in points
            ]
        )
        return hits / max(len(wanted), len(points))

    return max(map(one, references))


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 where neither has an area.

    >>> overlap((0, 0, 2, 2), (1, 0, 3, 2)), overlap((0, 0, 0, 1), (0, 0, 0, 1))
    (0.3333333333333333, 0.0)
    """
    across, down = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = across * down if across > 0 and down > 0 else 0.0
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0


def _boxes(text: str, coordinates: BoxFormat) -> list[Box]:
    found = (each.box for each in parse_boxes(text, UNIT, coordinates))
    return [(min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])) for b in found]


def _matched(found: Sequence[Box], wanted: Sequence[Box]) -> list[float] | None:
    """The IoU of each matched pair, with a 0 for each box that has none; None where there are no boxes at all."""
    if not found and not wanted:
        return None
    pairs = sorted(
        ((overlap(a, b), i, j) for i, a in enumerate(found) for j, b in enumerate(wanted)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    taken: tuple[set[int], set[int]] = (set(), set())
    result = []
    for value, i, j in pairs:
        if i not in taken[0] and j not in taken[1]:
            taken[0].add(i)
            taken[1].add(j)
            result.append(value)
    return result + [0.0] * (max(len(found), len(wanted)) - len(result))


def _mean(values: Sequence[float] | None) -> float:
    return 1.0 if values is None else sum(values) / len(values)
