"""Curves are well-formed pictures with every point in its place, whatever texts they are given."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from mmdata.simulation.curves import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Chart, Line, draw

NAMESPACE = "{http://www.w3.org/2000/svg}"


def chart(**more: object) -> Chart:
    lines = (
        Line(name="done <b>", points=((1, 1), (10, 100), (100, 10_000))),
        Line(name="computed", points=((1, 10), (100, 10)), computed=True),
    )
    return Chart(**{"name": "n", "title": "a < b & c", "x": "x", "y": "y", "lines": lines, **more})  # type: ignore[arg-type]


def test_points_lie_where_their_values_are() -> None:
    tree = ElementTree.fromstring(draw(chart()))
    done, computed = tree.iter(f"{NAMESPACE}polyline")
    corners = [tuple(map(float, point.split(","))) for point in done.attrib["points"].split()]
    assert corners[0] == (LEFT, HEIGHT - BOTTOM)
    assert corners[1] == ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)  # halfway, in decades
    assert corners[2] == (WIDTH - RIGHT, TOP)
    assert "stroke-dasharray" in computed.attrib
    assert len(list(tree.iter(f"{NAMESPACE}circle"))) == 3  # of what was done only
    texts = [text.text for text in tree.iter(f"{NAMESPACE}text")]
    assert {"a < b & c", "done <b>", "10 k"} <= set(texts)


def test_linear_axes_hold_all_values() -> None:
    lines = (Line(name="a", points=((0.0, 1.01), (1.0, 1.27))),)
    found = draw(chart(lines=lines, log_x=False, log_y=False))
    for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', found):
        assert LEFT <= float(x) <= WIDTH - RIGHT
        assert TOP <= float(y) <= HEIGHT - BOTTOM
    flat = draw(chart(lines=(Line(name="a", points=((1, 5.0), (2, 5.0))),), log_y=False))
    assert "nan" not in flat


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        draw(chart(lines=()))
    with pytest.raises(ValueError, match="logarithmic"):
        draw(chart(lines=(Line(name="a", points=((0.0, 1.0),)),)))
