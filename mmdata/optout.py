"""What pages and answers of the web say against their use, in the words of robots' directives."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal, get_args

Wish = Literal["noai", "noimageai", "noindex", "noimageindex", "noml", "tdm-reservation"]
WISHES: tuple[Wish, ...] = get_args(Wish)
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


def refusal(tags: Collection[str], reserved: Iterable[str], honoured: Collection[Wish]) -> str | None:
    """The reason of the first wish of those `honoured` that is among directives, or that a value of
    `tdm-reservation` makes.

    >>> refusal({"noindex", "noai"}, ["0"], WISHES), refusal((), [" 1 "], WISHES), refusal((), (), WISHES)
    ('x_robots_noai', 'tdm_reservation', None)
    """
    for wish in honoured:
        if wish == "tdm-reservation":
            if any(value.strip() == "1" for value in reserved):
                return "tdm_reservation"
        elif wish in tags:
            return f"x_robots_{wish}"
    return None
