"""What a benchmark claims: each a figure, beside whom, over how many rounds, against which goal; as JSON and Markdown.

A file of results says when, by which command, on what machine and against which versions it was measured, and holds the
claims; what was measured in each round stands beside them as `figures`. Tables are made of these files and of nothing
else, so a figure that no file holds is not quoted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks._interleaved import Row, ratio, summary

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "README.md"
README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- measured: python -m benchmarks --table -->", "<!-- /measured -->"
Figure = tuple[float, float, float]
"""Median, least and most of the rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One figure.

    what        the work
    ours        which way of ours
    beside      the peer, the floor or the limit that it is compared with, by name
    figure      median, least and most of the rounds; None where it could not be measured, and `missing` says why
    unit        "x": how many times as fast as `beside`, or its share; else what the figure counts
    goal        what it is to reach, or None
    at_most     the goal is an upper bound
    floor       `beside` is what bounds any way of doing the work: to be slower than it is no loss
    headline    it is quoted in the project's README
    """

    what: str
    ours: str
    beside: str
    figure: Figure | None
    rounds: int
    unit: str = "x"
    goal: float | None = None
    at_most: bool = False
    floor: bool = False
    headline: bool = False
    missing: str | None = None

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal or a figure."""
        if self.goal is None or self.figure is None:
            return None
        return self.figure[0] <= self.goal if self.at_most else self.figure[0] >= self.goal

    @property
    def lost(self) -> bool:
        """Whether the one beside it does better."""
        return self.figure is not None and self.unit == "x" and not (self.floor or self.at_most) and self.figure[0] < 1

    @property
    def verdict(self) -> str:
        if self.figure is None:
            return f"missing: {self.missing or 'not measured'}"
        words = {None: "", True: "met", False: "**not met**"}[self.met]
        return f"{words}{', ' if words else ''}**we lose**" if self.lost else words

    @property
    def told(self) -> str:
        """The figure as text."""
        if self.figure is None:
            return "-"
        middle, least, most = (_number(value) for value in self.figure)
        unit = "x" if self.unit == "x" else f" {self.unit}"
        return f"{middle}{unit}" if least == most else f"{middle}{unit} ({least}-{most})"

    @property
    def aim(self) -> str:
        return "" if self.goal is None else f"{'<=' if self.at_most else '>='} {_number(self.goal)}"


def _number(value: float) -> str:
    if value == 0 or 1 <= abs(value) < 10:
        return f"{value:.2f}"
    if abs(value) < 1:
        return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"
    return f"{value:,.1f}" if abs(value) < 100 else f"{value:,.0f}"


def beside(
    what: str,
    found: Mapping[str, Sequence[Row]],
    ours: str,
    other: str,
    *,
    by: str,
    missing: Mapping[str, str] | None = None,
    **more: Any,
) -> Claim:
    """How many times as fast `ours` is as `other`, round by round: `by` names what both have in `found`, which is a
    rate where it ends with `rate`, and else a time or another cost."""
    name = more.pop("name", other)
    for each in (ours, other):
        if each not in found:
            reason = (missing or {}).get(each, f"{each} is not here")
            return Claim(what=what, ours=ours, beside=name, figure=None, rounds=0, missing=reason, **more)
    if any(row[by] <= 0 for row in (*found[ours], *found[other])):  # a difference of two runs, lost in noise
        reason = f"{by} is not above 0 in each round: noise is larger"
        return Claim(what=what, ours=ours, beside=name, figure=None, rounds=len(found[ours]), missing=reason, **more)
    rate = by.endswith("rate")
    figure = ratio(*((found[ours], found[other]) if rate else (found[other], found[ours])), by)
    return Claim(what=what, ours=ours, beside=name, figure=figure, rounds=len(found[ours]), **more)


def best_of(
    what: str,
    found: Mapping[str, Sequence[Row]],
    ours: str,
    others: Iterable[str],
    *,
    by: str,
    missing: Mapping[str, str] | None = None,
    **more: Any,
) -> Claim:
    """`beside` the fastest of the others by their medians."""
    present = [name for name in others if name in found]
    if not present:
        reason = "; ".join(f"{name}: {why}" for name, why in (missing or {}).items()) or "no peer is here"
        return Claim(what=what, ours=ours, beside="the fastest peer", figure=None, rounds=0, missing=reason, **more)
    choose = max if by.endswith("rate") else min
    best = choose(present, key=lambda name: summary(found[name], by)[0])
    return beside(what, found, ours, best, by=by, name=f"{best}, the fastest of {len(present)}", **more)


def figure(what: str, ours: str, values: Sequence[float], unit: str, **more: Any) -> Claim:
    """A figure of ours alone, such as megabytes; beside the limit that it is to keep."""
    row = [{"value": value} for value in values]
    return Claim(
        what=what,
        ours=ours,
        beside=more.pop("beside", "a limit" if more.get("goal") is not None else "-"),
        figure=summary(row, "value"),
        rounds=len(values),
        unit=unit,
        **more,
    )


def machine() -> dict[str, Any]:
    """What there was to compute with: cores, the load averages of one, five and fifteen minutes, the CPU's name."""
    names = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(value, 2) for value in os.getloadavg()],
        "cpu": names[0] if names else "unknown",
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


BEFORE = machine()
"""As the benchmark began."""


def installed(*packages: str) -> dict[str, str]:
    """Versions of the peers that live in this environment; those that do not are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write(
    name: str,
    claims: Sequence[Claim],
    *,
    figures: Any = None,
    missing: Mapping[str, str] | None = None,
    threads: int = 1,
    peers: Mapping[str, str] | None = None,
    to: Path | None = None,
    **told: Any,
) -> Path:
    """Print the claims and keep them, in `to` or in the folder of results."""
    for claim in claims:
        verdict = claim.verdict.replace("**", "")
        print(f"{claim.what}: {claim.ours} beside {claim.beside}: {claim.told}  {claim.aim}  {verdict}")
    for peer, why in (missing or {}).items():
        print(f"{peer}: MISSING: {why}")
    content = {
        "name": name,
        "measured": time.strftime("%Y-%m-%d"),
        "command": command(name),
        "machine": {**BEFORE, "load_after": machine()["load"]},
        "threads": threads,
        "peers": dict(peers or {}),
        "missing": dict(missing or {}),
        **told,
        "claims": [{**asdict(claim), "met": claim.met} for claim in claims],
        "figures": figures,
    }
    path = to or RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_rounded(content), indent=1) + "\n")
    print(path)
    return path


def command(name: str) -> str:
    """As it was typed, without where the figures go."""
    words = sys.argv[1:]
    if "--json" in words:
        at = words.index("--json")
        words = words[:at] + words[at + 2 :]
    return " ".join(["python -m", f"benchmarks.{name}", *words])


def _rounded(value: Any) -> Any:
    """Six digits are more than any figure holds."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, (list, tuple)) else value


def read(path: Path) -> dict[str, Any]:
    """A file of results with its claims as Claims. Raises ValueError for one that holds none."""
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict) or not isinstance(content.get("claims"), list):
        raise ValueError(f"{path}: no claims in it")
    names = {field.name for field in fields(Claim)}
    found = []
    for told in content["claims"]:
        values: dict[str, Any] = {name: value for name, value in told.items() if name in names}
        values["figure"] = tuple(values["figure"]) if values["figure"] else None
        found.append(Claim(**values))
    content["claims"] = found
    return content


def results(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """All files of results, by name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


COLUMNS = ("work", "ours", "beside", "figure: median (least-most)", "rounds", "goal", "")


def _lines_of(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    all_rows = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in all_rows)


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all claims, by benchmark."""
    claims = [claim for each in found for claim in each["claims"]]
    judged = [claim.met for claim in claims if claim.met is not None]
    told = [
        "# Results",
        "Written by `python -m benchmarks --table` out of the JSON files beside it; `make bench` measures them anew. A "
        "figure in x says how many times as fast ours is as what stands beside it, by the rounds in which both took "
        "their turns; another figure has its unit. Only ratios of one run mean anything: machines drift.",
        f"{len(claims)} claims, {sum(judged)} of {len(judged)} goals met, "
        f"{sum(claim.lost for claim in claims)} lost to a peer, "
        f"{sum(claim.figure is None for claim in claims)} without a figure.",
    ]
    losses = [(each["name"], claim) for each in found for claim in each["claims"] if claim.lost or claim.met is False]
    if losses:
        told.append("## Where we lose, or miss a goal")
        told.append(_lines_of(("benchmark", *COLUMNS), [(name, *_row(claim)) for name, claim in losses]))
    for each in found:
        machine = each["machine"]
        told += [f"## {each['name']}", _about(each, machine)]
        told.append(_lines_of(COLUMNS, map(_row, each["claims"])))
    return "\n\n".join(told) + "\n"


def _about(each: Mapping[str, Any], machine: Mapping[str, Any]) -> str:
    loads = [machine["load"][0], machine.get("load_after", machine["load"])[0]]
    about = (
        f"`{each['command']}`, {each['measured']}; {machine['cores']} cores of {machine['cpu']}, load "
        f"{loads[0]:.1f} before and {loads[1]:.1f} after; {each['threads']} thread(s)."
    )
    if each["peers"]:
        about += " Peers: " + ", ".join(f"{name} {number}" for name, number in each["peers"].items()) + "."
    if each["missing"]:
        about += " Missing: " + "; ".join(f"{name} ({why})" for name, why in each["missing"].items()) + "."
    return about


def _row(claim: Claim) -> tuple[str, ...]:
    return (claim.what, claim.ours, claim.beside, claim.told, str(claim.rounds), claim.aim, claim.verdict)


def headlines(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of the claims that the project's README quotes, each with its command, and of where we lose."""
    rows = [(each, claim) for each in found for claim in each["claims"] if claim.headline]
    lines = []
    for each, claim in rows:
        by = f"`{each['command']}`, {each['measured']}, load {each['machine']['load'][0]:.0f}"
        what = f"{claim.what}: {claim.ours}"
        lines.append((what, claim.beside, claim.told, claim.aim, claim.verdict, by))
    machines = dict.fromkeys(f"{each['machine']['cores']} cores of {each['machine']['cpu']}" for each, _ in rows)
    lost = sum(claim.lost for each in found for claim in each["claims"])
    missed = sum(claim.met is False for each in found for claim in each["claims"])
    where = f"On {', '.join(machines)}" if rows else "Nothing is measured yet"
    about = (
        f"{where}; medians of interleaved rounds, (least-most). "
        f"[All figures](benchmarks/results/README.md), with the {lost} in which a peer is faster and the {missed} that "
        "miss their goal. Measure them anew with `make bench` (`python -m benchmarks.peers` makes the peers' "
        "environments, `python -m benchmarks --quick` runs all on small sizes)."
    )
    columns = ("work", "beside", "figure: median (least-most)", "goal", "", "measured by")
    return f"{about}\n\n{_lines_of(columns, lines)}"


def between(text: str, content: str) -> str:
    """`text` with `content` between the marks. Raises ValueError where there are none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def write_tables() -> None:
    """The table of results, and what the project's README quotes."""
    found = results()
    TABLE.write_text(table(found))
    README.write_text(between(README.read_text(), headlines(found)))
