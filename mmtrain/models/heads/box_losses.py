"""How far boxes and masks are from what they should be: IoU, GIoU, L1, BCE, Dice, and a mask against its box.

Boxes are float [N, 4] in shares of the picture's sides, left, top, right, bottom (`xyxy`) unless a name says centre and
size (`cxcywh`). Everything is per box or mask, float32 [N]; the mean over them is the caller's.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

EPS = 1e-7
"""What keeps boxes without an area from dividing by nothing (torchvision, `_diou_iou_loss.py`)."""
DICE_EPS = 1e-5
"""Of the projections (AdelaiDet, `dice_coefficient`)."""


def to_xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """Centre and size to corners.

    >>> to_xyxy(torch.tensor([[0.5, 0.5, 0.5, 0.25]])).tolist()
    [[0.25, 0.375, 0.75, 0.625]]
    """
    x, y, width, height = boxes.unbind(-1)
    return torch.stack([x - width / 2, y - height / 2, x + width / 2, y + height / 2], dim=-1)


def to_cxcywh(boxes: torch.Tensor) -> torch.Tensor:
    """Corners to centre and size."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], dim=-1)


def ordered(boxes: torch.Tensor) -> torch.Tensor:
    """Boxes with left <= right and top <= bottom, for corners that a text has swapped."""
    first, second = boxes[..., :2], boxes[..., 2:]
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=-1)


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of box i of `a` and box i of `b`, 0 where neither has an area.

    >>> iou(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.5, 1.0]])).mul(100).round().tolist()
    [50.0]
    """
    overlap, union, _ = _areas(a, b)
    return overlap / (union + EPS)


def giou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Generalised IoU, from -1 (far apart) to 1 (the same box): IoU less the share of the smallest box around both that
    neither covers. (Rezatofighi et al. 2019, arXiv 1902.09630; `torchvision.ops.generalized_box_iou_loss` is 1 - it.)
    """
    overlap, union, around = _areas(a, b)
    return overlap / (union + EPS) - (around - union) / (around + EPS)


def _areas(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Areas of what both cover, of what either covers, and of the smallest box around both."""
    a, b = a.float(), b.float()
    inner = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    overlap = torch.where((inner > 0).all(-1), inner.prod(-1), torch.zeros_like(inner[..., 0]))
    areas = [(box[..., 2:] - box[..., :2]).prod(-1) for box in (a, b)]
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return overlap, areas[0] + areas[1] - overlap, outer.prod(-1)


def l1(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The sum of the four differences; of centres and sizes in DETR (Carion et al. 2020, arXiv 2005.12872, eq. 2)."""
    return (predicted.float() - wanted.float()).abs().sum(-1)


def mask_bce(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of one mask, the mean over its cells: float [rows, columns] twice, wanted from 0 to 1."""
    return F.binary_cross_entropy_with_logits(logits.float(), wanted.float())


def mask_dice(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """1 - (2 * overlap + 1) / (sum + sum + 1) of one mask (MaskFormer, `dice_loss`; Milletari et al. 2016)."""
    found, wanted = logits.float().sigmoid(), wanted.float()
    return 1 - (2 * (found * wanted).sum() + 1) / (found.sum() + wanted.sum() + 1)


def box_mask(logits: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """How far the shadows of one mask [rows, columns] on both axes are from those of a box `xyxy` [4], 0 to 2: the sum
    of two Dice losses, so that a mask reaches as far as its box and no farther. The gradient goes to both. (BoxInst:
    Tian et al. 2021, arXiv 2012.02310, §3.1; a cell that a box covers in part counts as that part.)"""
    found, box = logits.float().sigmoid(), box.float()
    rows, columns = found.shape
    down, across = covered(box[1], box[3], rows), covered(box[0], box[2], columns)
    return _projected(found.amax(1), down) + _projected(found.amax(0), across)


def covered(start: torch.Tensor, stop: torch.Tensor, cells: int) -> torch.Tensor:
    """How much of each of so many equal cells of [0, 1] lies between two numbers: float32 [cells].

    >>> covered(torch.tensor(0.25), torch.tensor(0.625), 4).tolist()
    [0.0, 1.0, 0.5, 0.0]
    """
    edges = torch.arange(cells + 1, device=start.device, dtype=torch.float32)
    inner = torch.minimum(stop * cells, edges[1:]) - torch.maximum(start * cells, edges[:-1])
    return inner.clamp(0, 1)


def _projected(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return 1 - 2 * (found * wanted).sum() / (found.square().sum() + wanted.square().sum() + DICE_EPS)
