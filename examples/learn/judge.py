"""What a small picture shows, by its pixels alone: the colour that stands out, and the form of what has it.

No model is asked, so that what a model draws can be counted: `what(picture)` answers as `examples.learn.make` names
its shapes, or "" where nothing stands out.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from examples.learn.make import COLOURS, SHAPES

GRID = 24
STANDS_OUT = 60.0
"""How far from the background a pixel of the shape is, at least, of 441."""


def what(picture: Image.Image) -> str:
    """A colour and a form, as "a red circle".

    >>> from examples.learn.make import shape
    >>> picture, called, _ = shape(np.random.default_rng(3), 4)
    >>> what(picture) == called
    True
    """
    pixels = np.asarray(picture.convert("RGB"), np.float64)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    far = np.sqrt(((pixels - np.median(edge, 0)) ** 2).sum(-1))
    inside = far > STANDS_OUT
    if inside.sum() < 20:
        return ""
    ink = np.median(pixels[inside], 0)
    colour = min(COLOURS, key=lambda name: float(((ink - np.array(COLOURS[name][0])) ** 2).sum()))
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    cut = inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    whole = np.asarray(Image.fromarray(cut).resize((GRID, GRID))).astype(bool)
    form = max(SHAPES, key=lambda name: float((whole & _form(name)).sum() / (whole | _form(name)).sum()))
    return f"a {colour} {form}"


def _form(name: str) -> np.ndarray:
    """A form that fills its box, bool [GRID, GRID]."""
    picture, last = Image.new("1", (GRID, GRID)), GRID - 1
    pen = ImageDraw.Draw(picture)
    match name:
        case "circle":
            pen.ellipse((0, 0, last, last), fill=1)
        case "square":
            pen.rectangle((0, 0, last, last), fill=1)
        case "triangle":
            pen.polygon([(last / 2, 0), (0, last), (last, last)], fill=1)
        case _:
            low, high = last * 0.35, last * 0.65
            pen.rectangle((0, low, last, high), fill=1)
            pen.rectangle((low, 0, high, last), fill=1)
    return np.asarray(picture)
