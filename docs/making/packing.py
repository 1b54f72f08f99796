"""Draws the pictures of docs/packing.md with the functions that pack: `python docs/making/packing.py` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmdata.labels import dense_mask, segment_ids
from mmdata.pack import balance, even_out, imbalance, length_batches, pack, packing_efficiency, padded_efficiency

PICTURES = Path(__file__).parents[1] / "pictures"
LENGTHS = (7, 5, 3, 3, 2, 9, 4, 6, 2, 1, 5, 3)
"""Tokens of twelve samples, in the order of the stream; a row holds 10."""
CAPACITY = 10
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee8866", "#44bb99", "#7777bb", "#999933")
EMPTY, INK, PAPER = "#e6e6e6", "#222222", "#ffffff"
UNIT, ROW = 24, 22  # pixels of a token, and of a row


def rect(x: float, y: float, width: float, height: float, fill: str, text: str = "") -> str:
    made = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{PAPER}"/>'
    return made + (label(x + width / 2, y + height / 2 + 4, text, fill=PAPER, anchor="middle") if text else "")


def label(x: float, y: float, text: str, *, fill: str = INK, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{fill}" text-anchor="{anchor}">{text}</text>'


def svg(width: int, height: int, pieces: Sequence[str], title: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12" role="img"><title>{title}</title>'
    )
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="{PAPER}"/>', *pieces, "</svg>", ""])


def rows(
    x: int, y: int, title: str, bins: Sequence[Sequence[int]], filled: float, *, padded: bool = False
) -> list[str]:
    """Bins as rows of samples after each other, or each sample as a row as long as its batch's longest."""
    made = [label(x, y, f"{title}: {filled:.0%} filled")]
    y += 8
    for members in bins:
        longest = max(LENGTHS[i] for i in members)
        for row in [[i] for i in members] if padded else [members]:
            at = 0
            made.append(rect(x, y, (longest if padded else CAPACITY) * UNIT, ROW, EMPTY))
            for i in row:
                colour = COLOURS[i % len(COLOURS)]
                made.append(rect(x + at * UNIT, y, LENGTHS[i] * UNIT, ROW, colour, str(LENGTHS[i])))
                at += LENGTHS[i]
            y += ROW
        y += 3
    return made


def strategies() -> str:
    """The same samples padded in batches, in rows as they come, and packed as the stream packs by default."""
    batches = length_batches(LENGTHS, rows=2).tolist()
    arrival = [[2 * i, 2 * i + 1] for i in range(len(LENGTHS) // 2)]
    next_fit, best = pack(LENGTHS, CAPACITY, "next_fit").tolist(), pack(LENGTHS, CAPACITY).tolist()
    left, right = 20, 40 + CAPACITY * UNIT
    pieces = [
        *rows(left, 24, "padded, as they come", arrival, padded_efficiency(arrival, LENGTHS), padded=True),
        *rows(right, 24, "packing: none (like lengths)", batches, padded_efficiency(batches, LENGTHS), padded=True),
        *rows(left, 350, "packing: next_fit", next_fit, packing_efficiency(next_fit, LENGTHS, CAPACITY)),
        *rows(right, 350, "packing: best_fit", best, packing_efficiency(best, LENGTHS, CAPACITY)),
    ]
    return svg(2 * CAPACITY * UNIT + 60, 560, pieces, "twelve samples, padded and packed")


def isolation() -> str:
    """A row of three samples and its padding: positions, and who may look at whom."""
    borders = np.array([0, 4, 9, 11, 12], np.int32)
    segments = segment_ids(borders)
    allowed = dense_mask(borders)
    left, top, cell = 110, 30, 22
    pieces = [label(10, 18, f"cu_seqlens = {borders.tolist()}; grey is padding, a segment of its own")]
    for line, name in enumerate(("segment", "position")):
        pieces.append(label(10, top + line * ROW + 15, name))
        for at, segment in enumerate(segments.tolist()):
            told = segment if name == "segment" else at - int(borders[segment])
            colour = COLOURS[segment] if segment < 3 else "#999999"
            pieces.append(rect(left + at * cell, top + line * ROW, cell, ROW, colour, str(told)))
    top += 3 * ROW
    pieces.append(label(10, top + 15, "may look at"))
    for query in range(len(segments)):
        for key in range(len(segments)):
            seen = bool(allowed[query, key])
            colour = (COLOURS[segments[query]] if segments[query] < 3 else "#999999") if seen else EMPTY
            pieces.append(rect(left + key * cell, top + query * cell, cell, cell, colour))
    return svg(left + 12 * cell + 20, top + 12 * cell + 20, pieces, "who attends to whom in a packed row")


def spreading() -> str:
    """Two packs of pictures and two of text, before and after vision is spread over them."""
    lengths, weights, capacity = [6, 4, 6, 4, 6, 4, 6, 4], [6, 4, 6, 4, 0, 0, 0, 0], 10
    before = pack(lengths, capacity, "next_fit")
    after = even_out(before, lengths, weights, capacity)
    pieces: list[str] = []
    for column, (title, bins) in enumerate((("by length alone", before), ("vision spread out", after))):
        x = 20 + column * (capacity * UNIT + 60)
        pieces.append(label(x, 20, f"{title} (dark: pictures)"))
        for row, members in enumerate(bins.tolist()):
            at = 0
            for i in members:
                colour = COLOURS[0] if weights[i] else COLOURS[4]
                pieces.append(
                    rect(x + at * UNIT, 28 + row * (ROW + 3), lengths[i] * UNIT, ROW, colour, str(lengths[i]))
                )
                at += lengths[i]
    return svg(2 * capacity * UNIT + 100, 140, pieces, "pictures spread over packs")


def ranks() -> str:
    """Twelve packs of one step on four ranks: in turn, and dealt by cost."""
    costs = np.array([9, 8, 2, 3, 10, 7, 3, 2, 9, 6, 2, 3], np.float64)
    count = 4
    in_turn = np.arange(len(costs)).reshape(-1, count).T
    pieces: list[str] = []
    for column, (title, dealt) in enumerate((("in turn", in_turn), ("by cost", balance(costs, count)))):
        x = 20 + column * 360
        worst = imbalance(costs, dealt).step.max()
        pieces.append(label(x, 20, f"{title}: the slowest rank has {worst:.2f} times the mean"))
        for rank, members in enumerate(dealt.tolist()):
            at = 0.0
            pieces.append(label(x, 44 + rank * (ROW + 3), f"rank {rank}"))
            for i in members:
                if i >= 0:
                    colour = COLOURS[i % len(COLOURS)]
                    pieces.append(rect(x + 50 + at, 28 + rank * (ROW + 3), costs[i] * 9, ROW, colour, f"{costs[i]:g}"))
                    at += costs[i] * 9
    return svg(740, 140, pieces, "packs dealt to ranks")


DRAWN = {"strategies": strategies, "isolation": isolation, "spreading": spreading, "ranks": ranks}


def main() -> int:
    """Write every picture."""
    PICTURES.mkdir(exist_ok=True)
    for name, draw in DRAWN.items():
        (PICTURES / f"packing_{name}.svg").write_text(draw(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
