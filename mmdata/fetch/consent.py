"""Opt-outs that a response carries in its headers."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from multidict import CIMultiDictProxy

from mmdata.fetch.failure import FetchError, opted_out

_AGENT = re.compile(r"\s*([^\s:,;]+)\s*:(.*)", re.DOTALL)
_WITH_VALUE = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})


def product_token(user_agent: str) -> str:
    """The name by which sites address us: the product at the start of the User-Agent, lower-case.

    >>> product_token("mmdata/0.1 (dataset builder)")
    'mmdata'
    """
    token = re.match(r"[A-Za-z0-9_\-]*", user_agent.strip())
    return token[0].lower() if token else ""


def robots_tags(values: Iterable[str], agent: str) -> set[str]:
    """The directives of `X-Robots-Tag` header values that apply to `agent`, lower-case, without those that carry
    a value. A name before a colon narrows the directives after it, up to the next name or the value's end, to
    the robot of that name; `none` also counts as `noindex`.

    >>> sorted(robots_tags(["noai, max-snippet: 20", "otherbot: noindex, noml", "MMData: none"], "mmdata"))
    ['noai', 'noindex', 'none']
    """
    tags: set[str] = set()
    for value in values:
        applies = True
        for directive in re.split(r"[,;]", value.lower()):
            named = _AGENT.fullmatch(directive)
            if named:
                if named[1] in _WITH_VALUE:
                    continue
                applies = named[1] == "*" or product_token(named[1]) == agent
                directive = named[2]
            if applies:
                tags.update(directive.split())
    if "none" in tags:
        tags.add("noindex")
    return tags


def opt_out(headers: CIMultiDictProxy[str], agent: str, honoured: Collection[str]) -> FetchError | None:
    """The opt-out among those `honoured` that a response's headers express, or None. The first in the order of
    `honoured` is reported."""
    if "X-Robots-Tag" not in headers and "TDM-Reservation" not in headers:
        return None
    tags = robots_tags(headers.getall("X-Robots-Tag", ()), agent)
    reserved = any(value.strip() == "1" for value in headers.getall("TDM-Reservation", ()))
    for wish in honoured:
        if wish == "tdm-reservation":
            if reserved:
                return opted_out("tdm_reservation", "TDM-Reservation: 1")
        elif wish in tags:
            return opted_out(f"x_robots_{wish}", "X-Robots-Tag: " + ", ".join(headers.getall("X-Robots-Tag"))[:200])
    return None
