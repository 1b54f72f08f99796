"""What a fault server answers: a plan of origins, paths and behaviours, all plain data (JSON)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

INSTEAD = ("hang", "reset", "close")
ENDS = ("keep", "close", "reset", "hang")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How one request is answered. The default is an honest 200 with the file of that path (404 without one).

    What is sent: `file` (relative to the server's root; default the request's path), else `body` (text), else
    `size` zero bytes. `gzip` compresses it and says so.
    The head: `status`, `content_type`, `headers` (added or overriding), `redirect` (a Location; `{name}` stands
    for the URL of the origin called so; status 302 unless given), `retry_after_date` (a Retry-After header with
    the HTTP date so many seconds from now; use `headers` for the seconds form).
    Framing: `declare` is the Content-Length to claim: a number, `"none"` (body ends with the connection) or
    `"chunked"`; default the truth. `send` stops after so many body bytes. `end` is what happens then:
    keep the connection, close it, reset it (RST), or hang. A body that disagrees with its head closes.
    Timing: `delay` seconds before the head; `drip_bytes` body bytes every `drip_seconds`.
    `instead` gives no answer at all: hang, reset or close.
    `ranges`: a file is sent in part where a Range header asks for it; without, as a whole all the same.
    `times` answers so many requests of this path, then the next behaviour of its list takes over.
    """

    status: int | None = None
    file: str | None = None
    body: str | None = None
    size: int | None = None
    gzip: bool = False
    content_type: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    redirect: str | None = None
    retry_after_date: float | None = None
    declare: int | Literal["none", "chunked"] | None = None
    send: int | None = None
    end: Literal["keep", "close", "reset", "hang"] = "keep"
    delay: float = 0.0
    drip_bytes: int | None = None
    drip_seconds: float = 0.1
    instead: Literal["hang", "reset", "close"] | None = None
    ranges: bool = True
    times: int | None = None

    def __post_init__(self) -> None:
        if self.instead is not None and self.instead not in INSTEAD:
            raise ValueError(f"instead: {self.instead!r} is none of {', '.join(INSTEAD)}")
        if self.end not in ENDS:
            raise ValueError(f"end: {self.end!r} is none of {', '.join(ENDS)}")
        if isinstance(self.declare, str) and self.declare not in ("none", "chunked"):
            raise ValueError(f"declare: {self.declare!r} is neither a number nor 'none' nor 'chunked'")
        if sum(value is not None for value in (self.file, self.body, self.size)) > 1:
            raise ValueError("file, body and size: give one of them")
        for name, least in (("times", 1), ("size", 0), ("send", 0), ("drip_bytes", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: {value} is less than {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginPlan:
    """One listening address and what is behind it. `port` 0 takes a free one. `paths` maps a path (with its
    query, if it has one) to the behaviours that answer its requests, one after the other; the last one stays.
    A `blackhole` accepts no connection: packets to it are lost, as behind a firewall that drops.
    """

    host: str = "127.0.0.1"
    port: int = 0
    paths: Mapping[str, tuple[Behaviour, ...]] = field(default_factory=dict)
    blackhole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All origins of a server, by name; the first is its main one."""

    origins: Mapping[str, OriginPlan] = field(default_factory=lambda: {"main": OriginPlan()})


def parse(data: Mapping[str, Any]) -> Plan:
    """A plan from its JSON form. Raises ValueError that names origin, path and the unknown or wrong key.

    A path's value is one behaviour or a list of them:

    >>> plan = parse({"origins": {"main": {"paths": {
    ...     "/gone.jpg": {"status": 410},
    ...     "/late.jpg": [{"status": 500, "times": 2}, {"file": "a.jpg"}],
    ... }}}})
    >>> [behaviour.status for behaviour in plan.origins["main"].paths["/late.jpg"]]
    [500, None]
    """
    _known(data, {"origins"}, "plan")
    origins = {}
    for name, origin in data.get("origins", {"main": {}}).items():
        _known(origin, {f.name for f in fields(OriginPlan)}, name)
        paths = {path: _behaviours(value, f"{name} {path}") for path, value in origin.get("paths", {}).items()}
        origins[name] = OriginPlan(**{**origin, "paths": paths})
    if not origins:
        raise ValueError("plan: no origins")
    return Plan(origins=origins)


def load(path: Path) -> Plan:
    """The plan in a JSON file; raises as `parse` does."""
    return parse(json.loads(path.read_text(encoding="utf-8")))


def dump(plan: Plan) -> str:
    """The plan's JSON form; defaults are left out, so that `parse(json.loads(dump(plan))) == plan`."""
    origins = {}
    for name, origin in plan.origins.items():
        paths = {path: [_plain(b) for b in steps] for path, steps in origin.paths.items()}
        origins[name] = {"host": origin.host, "port": origin.port, "blackhole": origin.blackhole, "paths": paths}
    return json.dumps({"origins": origins}, indent=1)


def _plain(behaviour: Behaviour) -> dict[str, Any]:
    default = asdict(Behaviour())
    return {key: value for key, value in asdict(behaviour).items() if value != default[key]}


def _behaviours(value: Any, where: str) -> tuple[Behaviour, ...]:
    steps = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not steps:
        raise ValueError(f"{where}: an empty list of behaviours")
    known = {f.name for f in fields(Behaviour)}
    behaviours = []
    for step in steps:
        if not isinstance(step, Mapping):
            raise ValueError(f"{where}: {step!r} is not a behaviour")
        _known(step, known, where)
        try:
            behaviours.append(Behaviour(**step))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error
    return tuple(behaviours)


def _known(value: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
