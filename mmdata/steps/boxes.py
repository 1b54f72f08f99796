"""Bring the boxes of a picture into the one form that other steps and the stream read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from mmdata.errors import DataError
from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps import _boxes
from mmdata.steps._boxes import CROWDS, LABELS, Box, Size
from mmdata.steps._columns import with_columns
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Layout = Literal["xyxy", "xywh", "cxcywh", "yxyx"]
_CORNERS: dict[str, Callable[[Box], Box]] = {
    "xyxy": lambda box: box,
    "xywh": lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]),
    "cxcywh": lambda box: (box[0] - box[2] / 2, box[1] - box[3] / 2, box[0] + box[2] / 2, box[1] + box[3] / 2),
    "yxyx": lambda box: (box[1], box[0], box[3], box[2]),
}


@register("step", "boxes")
class Boxes(StepSpec):
    """Write the boxes of a record's only picture as column `boxes`, [left, top, right, bottom] in pixels of the picture
    as it is now, with their `labels`: what `resize` moves, `instruct` asks about and the stream's augmentation keeps
    in the picture. Boxes are cut to the picture; those smaller than `min_side` are left out.

    Records without the column or of which no box is left are dropped as `boxes`, records of another number of pictures
    as `boxes_picture`, and records that were annotated on a picture of another shape as `boxes_size`. What is no box
    ends the record as `failed_permanent: bad_box`. (The source `coco` writes the column itself.)
    """

    kind: Literal["boxes"] = "boxes"
    column: str = _boxes.COLUMN
    """Where the boxes are; `objects.bbox` is a key of an object, or of each object of a list."""
    labels: str | None = LABELS
    """Where their labels are, a text for each or one for all. Null: there are none."""
    names: tuple[str, ...] = ()
    """What labels mean that are numbers, from 0."""
    layout: Layout = "xyxy"
    """What the four numbers are: corners, corner and size, centre and size, or corners with y before x."""
    scale: Literal["pixels", "unit", "thousandths"] = "pixels"
    """What they count: pixels, shares of the sides, or thousandths of them."""
    size: tuple[str, str] | None = None
    """Columns of the height and the width, in pixels, of the picture that was annotated: boxes on a picture of the same
    shape are scaled. Default: it was this picture."""
    min_side: float = Field(1.0, gt=0)
    """Least height and width of a box, in pixels."""
    missing: Literal["drop", "keep"] = "drop"
    """What is done with records that have no such column, or no box that is left. `keep`: their columns are empty."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        value = _at(sample.meta, self.column)
        if value is None or value == []:
            return self._without(sample, f"no boxes in column {self.column}")
        pictures = [media for media in sample.media if media.kind in ("image", "video")]
        if len(pictures) != 1 or pictures[0].kind != "image":
            return Drop(reason="boxes_picture", detail=f"{len(pictures)} pictures or videos; one picture is wanted")
        placed = _boxes.placed(sample, work)
        if isinstance(placed, Drop):
            return placed
        sample, value = placed, _at(placed.meta, self.column)
        size = work.size(pictures[0])
        boxes = _boxes.numbers(value)
        labels = [""] * len(boxes) if self.labels is None else self._labels(_at(sample.meta, self.labels), len(boxes))
        frame = self._frame(sample, size)
        if isinstance(frame, Drop):
            return frame
        crowds = sample.meta.get(CROWDS)
        crowded = set(crowds) if isinstance(crowds, list) else set()
        kept = []
        for at, (label, box) in enumerate(zip(labels, boxes, strict=True)):
            made = _boxes.cut(_boxes.scaled(_CORNERS[self.layout](box), frame), size)
            if made is not None and min(made[2] - made[0], made[3] - made[1]) >= self.min_side:
                kept.append((label, list(made), at in crowded))
        if not kept and self.missing == "drop":
            return self._without(sample, f"of {len(boxes)} boxes none has an area of {self.min_side:g} pixels a side")
        columns: dict[str, Any] = {_boxes.COLUMN: [box for _, box, _ in kept]}
        if self.labels is not None:
            columns[LABELS] = [label for label, _, _ in kept]
        if crowded:
            columns[CROWDS] = [at for at, (_, _, crowd) in enumerate(kept) if crowd]
        return with_columns(sample, columns)

    def _without(self, sample: Sample, detail: str) -> Sample | Drop:
        return sample if self.missing == "keep" else Drop(reason=self.kind, detail=detail)

    def _labels(self, value: Any, count: int) -> list[str]:
        def named(label: Any) -> Any:
            if isinstance(label, int) and not isinstance(label, bool) and self.names:
                if not 0 <= label < len(self.names):
                    raise DataError("bad_box", f"label {label} is none of {len(self.names)} names")
                return self.names[label]
            return label

        return _boxes.labels([named(label) for label in value] if isinstance(value, list) else named(value), count)

    def _frame(self, sample: Sample, size: Size) -> tuple[float, float] | Drop:
        """Pixels of the picture per unit of the numbers, (down, across)."""
        height, width = size
        if self.scale != "pixels":
            whole = 1 if self.scale == "unit" else 1000
            return height / whole, width / whole
        if self.size is None:
            return 1.0, 1.0
        told = [_at(sample.meta, name) for name in self.size]
        if not all(isinstance(side, int | float) and not isinstance(side, bool) and side > 0 for side in told):
            raise DataError("bad_box", f"columns {self.size[0]}, {self.size[1]}: a size is wanted, not {told}")
        return _boxes.fitted((told[0], told[1]), size) or _boxes.unfit(told, size)


def _at(meta: Any, path: str) -> Any:
    """A column, or `column.key`: a key of the object that the column holds, or of each of a list of objects.

    >>> _at({"objects": {"bbox": [[1, 2, 3, 4]]}}, "objects.bbox")
    [[1, 2, 3, 4]]
    >>> _at({"objects": [{"bbox": [1, 2, 3, 4]}, {"bbox": [5, 6, 7, 8]}]}, "objects.bbox")
    [[1, 2, 3, 4], [5, 6, 7, 8]]
    """
    if path in meta:
        return meta[path]
    column, _, key = path.partition(".")
    found = meta.get(column)
    if isinstance(found, Sequence) and not isinstance(found, str):
        return [item.get(key) if isinstance(item, dict) else None for item in found]
    return found.get(key) if isinstance(found, dict) else None
