"""What a build would do, told from metadata alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from mmdata.spec import BuildSpec


def dry_run(spec: BuildSpec, folder: Path) -> str:
    """What a build into `folder` would do, in a few lines; nothing is fetched and nothing written."""
    source = spec.source.open()
    states: Counter[tuple[str, str]] = Counter()
    hosts: Counter[str] = Counter()
    rows = 0
    for record in source.records(0, spec.limit):
        rows += 1
        if record.drop is not None:
            states[record.drop.state, record.drop.reason] += 1
        for media in record.sample.media if record.drop is None else ():
            hosts[_host(media.uri or "")] += 1
    done = len(list((folder / ".build" / "units").glob("*.json")))
    units = -(-rows // spec.output.unit_rows)
    lines = [
        f"source    {spec.source.kind}: {rows:,} input rows"
        + "".join(f"\n          {count:,} {state}: {reason}" for (state, reason), count in sorted(states.items())),
        f"fetch     {sum(hosts.values()):,} media from {len(hosts):,} hosts: "
        + ", ".join(f"{host} {count:,}" for host, count in hosts.most_common(5)),
        "          at most {:g}/s and {} at once per host, {} at once in all, {} retries, robots.txt {}".format(
            spec.fetch.per_host_rate,
            spec.fetch.per_host_concurrency,
            spec.fetch.concurrency,
            spec.fetch.retries,
            "obeyed" if spec.fetch.respect.robots else "NOT obeyed",
        ),
        "steps     " + " -> ".join(step.kind for step in spec.steps),
        f"output    {folder}: {units:,} units of {spec.output.unit_rows:,} rows, {done:,} committed already",
    ]
    busiest = max(hosts.values(), default=0)
    if busiest:
        lines.append(
            f"time      at least {busiest / spec.fetch.per_host_rate:,.0f} s, by the rate limit of the busiest host"
        )
    return "\n".join(lines)


def _host(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "(not a URL)"
    return parts.netloc if parts.scheme in ("http", "https") else f"({parts.scheme or 'local'} files)"
