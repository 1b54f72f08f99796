"""A web of one's own files that fails in every known way, link by link, and how each link must end.

    from mmdata.testing import fault_web, ledger_ends, settle

    web = fault_web("web", [open("cat.jpg", "rb").read()])      # a link for every kind of fault, and good ones
    with web.serve():
        ...                                                    # download web.links[n].url, or build from web.table
    print(settle(web.expected(), ledger_ends("dataset")))       # nothing lost, nothing twice, every reason right

For a downloader that is not ours, the ends are what to compare by hand: `ok`, `failed_permanent`, `failed_transient`
(another day, `serve(healed=True)`, it is there) and `opted_out`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from mmdata.testing import faults
from mmdata.testing.accounts import End
from mmdata.testing.faults import Answers, WebFault
from mmdata.testing.plan import Behaviour, OriginPlan, Plan
from mmdata.testing.server import FaultServer

CLEAN = "clean"
HOLES = frozenset({"hole"})
LEAST_BYTES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A link: the fault behind it (`clean` for none), how it must end now, and how once transient faults have
    passed."""

    url: str
    kind: str
    now: End
    healed: End


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultWeb:
    """A written web. `table` is a Parquet file with columns URL and TEXT, a row per link."""

    folder: Path
    links: tuple[Link, ...]
    plan: Plan
    healed_plan: Plan

    @property
    def table(self) -> Path:
        return self.folder / "links.parquet"

    def serve(self, *, healed: bool = False, log: str | os.PathLike[str] | None = None) -> FaultServer:
        """The servers, not yet started: `with web.serve() as server: ...`."""
        return FaultServer(self.folder / "served", self.healed_plan if healed else self.plan, log=log)

    def expected(self, *, healed: bool = False) -> dict[int, list[End]]:
        """How each link must end, by its number, as `settle` takes it."""
        return {number: [link.healed if healed else link.now] for number, link in enumerate(self.links)}

    def names(self) -> dict[int, str]:
        """The fault of each link, by its number."""
        return {number: link.kind for number, link in enumerate(self.links)}


def fault_web(
    folder: str | os.PathLike[str],
    files: Sequence[bytes],
    *,
    kinds: Sequence[WebFault] = faults.WEB,
    clean: int = 10,
    suffix: str = ".jpg",
    ports: Sequence[int] | None = None,
) -> FaultWeb:
    """Write a web into an empty folder: a link for each of `kinds`, and `clean` good ones between them. Link n leads to
    the n-th of `files`, or would, the files taken in turn; all are whole, under names that end in `suffix`.

    `mmdata.testing.faults.WEB` lists the kinds: statuses, resets, hang-ups, bodies too short, too long, too slow and
    endless, bombs, redirects that loop or leave, refusals by robots.txt and headers, and what looks odd and is fine.
    Those that are `slow` end only at a reader's deadlines. URLs hold the `ports` of `faults.ORIGINS`, by default free
    ones. Raises ValueError for no files, and for one of less than 4,000 bytes: some faults end after 3,000.
    """
    if not files or min(map(len, files)) < LEAST_BYTES:
        raise ValueError(f"files: a web needs one at least, and each of {LEAST_BYTES:,} bytes or more")
    from mmdata.testing.example import free_ports

    folder = Path(folder)
    served = folder / "served" / "images"
    served.mkdir(parents=True)
    urls = {
        name: f"http://127.0.0.1:{port}"
        for name, port in zip(faults.ORIGINS, ports or free_ports(len(faults.ORIGINS)), strict=True)
    }
    step = max(1, len(kinds) // clean) if clean else len(kinds) + 1
    dealt: list[WebFault | None] = []
    for number, kind in enumerate(kinds):
        dealt += [None, kind] if number % step == 0 and number // step < clean else [kind]
    dealt += [None] * (clean - dealt.count(None))
    answers: dict[tuple[str, str], tuple[Behaviour, ...]] = dict(faults.ROBOTS)
    healed = {key: value for key, value in answers.items() if key[0] != "broken"}
    links = []
    for number, fault in enumerate(dealt):
        name = f"images/{number:06d}{suffix}"
        (folder / "served" / name).write_bytes(files[number % len(files)])
        if fault is None:
            links.append(Link(url=f"{urls['main']}/{name}", kind=CLEAN, now=("ok", ""), healed=("ok", "")))
            continue
        path, here, there = behind(fault, name)
        answers |= here
        healed |= there
        end: End = (fault.state, fault.reason)
        passes = fault.state == "failed_transient"
        links.append(
            Link(url=urls[fault.origin] + path, kind=fault.kind, now=end, healed=("ok", "") if passes else end)
        )
    table = pa.table({"URL": [link.url for link in links], "TEXT": [f"link {n}" for n in range(len(links))]})
    pq.write_table(table, folder / "links.parquet")
    now, then = plans(urls, answers, healed)
    return FaultWeb(folder=folder, links=tuple(links), plan=now, healed_plan=then)


def behind(kind: WebFault, file: str) -> tuple[str, Answers, Answers]:
    """What a link with such a fault leads to: its path, what servers answer there, and what they do once transient
    faults have passed. `file` is the good one, relative to the server's root."""
    path = f"/{kind.folder}/{file.rpartition('/')[2]}"
    here = kind.answers(file, path)
    there = {(kind.origin, path): (Behaviour(file=file),)} if kind.state == "failed_transient" else here
    return path, here, there


def plans(urls: Mapping[str, str], answers: Answers, healed: Answers) -> tuple[Plan, Plan]:
    """Plans of servers at the URLs of `faults.ORIGINS`, now and healed: now nobody listens at `down`, and `hole`
    swallows connections."""
    live = [name for name in faults.ORIGINS if name != "down"]
    return _plan(urls, live, answers, HOLES), _plan(urls, faults.ORIGINS, healed, frozenset())


def _plan(urls: Mapping[str, str], live: Sequence[str], answers: Answers, holes: Collection[str]) -> Plan:
    origins = {}
    for name in live:
        paths = {path: steps for (origin, path), steps in answers.items() if origin == name}
        port = int(urls[name].rpartition(":")[2])
        origins[name] = OriginPlan(port=port, paths=paths, blackhole=name in holes)
    return Plan(origins=origins)
