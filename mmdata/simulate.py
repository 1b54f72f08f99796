"""`python -m mmdata.simulate`: a stream at 10^9 samples and thousands of ranks, planned for real and read on paper.

Order, packing, dealing and index are executed on a synthetic dataset of that size; network, cache and failures are
computed by the formulas of docs/scale.md. The same arguments give the same figures, but for seconds that are measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import jinja2
from markupsafe import Markup
from pydantic import ValidationError

from mmdata import pointer, specfile, unread
from mmdata.errors import RunError, SpecError
from mmdata.shards.storage import write_atomic
from mmdata.simulation.cluster import Cluster
from mmdata.simulation.curves import draw
from mmdata.simulation.executed import Executed, execute
from mmdata.simulation.findings import Finding, charts, findings, written
from mmdata.stream.order import Shuffle
from mmdata.stream.spec import StreamSpec

MIXED = (1_000, 3_000, 10_000, 30_000, 100_000)
"""Samples that are mixed at once where the shuffle is judged."""
OF_STREAM = ("shuffle", "block_samples", "max_length", "seed", "cache_bytes")
"""What the spec of a stream says of these."""


def simulate(told: Cluster, ranks: Sequence[int] = (), mixed: Sequence[int] = MIXED) -> tuple[Executed, list[Finding]]:
    """What a cluster comes to, and what was executed: dealt to the cluster's own number of ranks and to some more."""
    found = execute(told, sorted({told.ranks, *ranks}), mixed)
    return found, findings(told, found)


def fewer(ranks: int, per_node: int) -> list[int]:
    """Numbers of ranks below `ranks` at which curves have points: a node's, and fourfold each.

    >>> fewer(4096, 8)
    [8, 32, 128, 512, 2048]
    """
    found = [per_node]
    while found[-1] * 4 < ranks:
        found.append(found[-1] * 4)
    return [each for each in found if each < ranks]


def lines(told: Cluster, rows: Sequence[Finding]) -> list[str]:
    """A table for a person."""
    wide = max(len(row.name) for row in rows)
    head = (
        f"{told.samples:,} samples of {written(told.mean_bytes, 'B')}, {told.ranks:,} ranks on {told.nodes:,} nodes, "
        f"{told.global_batch:,} packs of {told.max_length:,} tokens a step, shuffle {told.shuffle} of "
        f"{told.block_samples:,}"
    )
    return [head] + [
        f"{row.about if not at or rows[at - 1].about != row.about else '':9} {row.name:{wide}}  "
        f"{written(row.value, row.unit):>12}  {row.kind}"
        for at, row in enumerate(rows)
    ]


def page(told: Cluster, found: Executed, rows: Sequence[Finding]) -> bytes:
    """One self-contained HTML page in UTF-8: the figures and their curves; no script, no request."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmdata.simulation", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    shown = [
        {"about": row.about, "name": row.name, "value": written(row.value, row.unit), "kind": row.kind} for row in rows
    ]
    text = environment.get_template("page.html.jinja").render(
        head=lines(told, rows)[0],
        rows=shown,
        charts=[Markup(draw(chart)) for chart in charts(told, found)],
        told=told.model_dump(),
    )
    return text.encode("utf-8", "xmlcharrefreplace")


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.simulate",
        description=(__doc__ or "").partition(": ")[2].replace("\n", " "),
        epilog="`executed`: done by the real planner; `measured`: seconds on this machine; `computed`: a formula.",
    )
    parser.add_argument("--stream", metavar="FILE", help=f"spec of a stream (YAML): its {', '.join(OF_STREAM)}")
    for name, field in Cluster.model_fields.items():
        default, about = field.default, (field.description or "").replace("%", "%%")
        kind = {"shuffle": str, "family": str}.get(name, float if isinstance(default, float) else _whole)
        choices = {"shuffle": get_args(Shuffle), "family": ("llava", "llava_next")}.get(name)
        told = f"{about} (default: {default:,})" if isinstance(default, int) else f"{about} (default: {default})"
        option = f"--{name.replace('_', '-')}"
        if choices:
            parser.add_argument(option, choices=choices, help=told)
        else:
            parser.add_argument(option, type=kind, metavar="N", help=told)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the figures and curves as one page")
    parser.add_argument("--svg", type=Path, metavar="FOLDER", help="write each curve as scale_NAME.svg")
    parser.add_argument("--json", action="store_true", help="the figures as JSON")
    options = parser.parse_args(argv)
    try:
        cluster = _told(options)
        found, rows = simulate(cluster, fewer(cluster.ranks, cluster.ranks_per_node))
        if options.html is not None:
            write_atomic(options.html, page(cluster, found, rows))
        if options.svg is not None:
            options.svg.mkdir(parents=True, exist_ok=True)
            for chart in charts(cluster, found):
                write_atomic(options.svg / f"scale_{chart.name}.svg", draw(chart).encode())
    except SpecError as error:
        print(f"mmdata.simulate: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"mmdata.simulate: {pointer.told(error)}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"told": cluster.model_dump(), "found": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join(lines(cluster, rows)))
    return 0


def _whole(text: str) -> int:
    """A whole number, also as 1e9."""
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _told(options: argparse.Namespace) -> Cluster:
    """Flags, before what a spec of a stream says, before defaults."""
    given: dict[str, Any] = {}
    if options.stream is not None:
        spec, _ = specfile.load(StreamSpec, options.stream)
        given = {name: getattr(spec, name) for name in OF_STREAM if name in spec.model_fields_set}
        given = {name: value for name, value in given.items() if value is not None}
    given |= {name: getattr(options, name) for name in Cluster.model_fields if getattr(options, name) is not None}
    try:
        return Cluster(**given)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False))
        raise SpecError(wrong) from error


if __name__ == "__main__":
    sys.exit(main())
