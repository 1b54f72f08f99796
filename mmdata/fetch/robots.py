"""robots.txt (RFC 9309): fetched once per origin, kept for the run, asked before every request."""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass

import aiohttp
from protego import Protego
from yarl import URL

from mmdata.fetch.body import read_body
from mmdata.fetch.exchange import REDIRECTS, Exchange, Tally
from mmdata.fetch.failure import TRANSIENT_STATUSES, UNREACHABLE, FetchError, transient
from mmdata.fetch.limits import CRAWL_DELAY_MAX
from mmdata.fetch.retry import persist
from mmdata.fetch.url import Origin, join_url, origin_of
from mmdata.optout import product_token
from mmdata.spec import FetchSpec

PARSED_BYTES = 500 * 1024
"""The least that RFC 9309 (2.5) lets a crawler parse; rules beyond it are not looked at."""
_REDIRECTS_MAX = 5
_FRESH_SECONDS = 24 * 3600.0  # RFC 9309, 2.4.
_RETRY_SECONDS = 300.0  # An origin whose rules could not be had is asked again after this.
_KEPT_CHARACTERS = 32 << 20  # Of robots.txt, over all origins; parsed they take several times as much.
_ENTRY = 256  # What an origin without rules counts for.
_OWN = frozenset({"tls_error", "private_address", "dns_not_found", "bad_url"})
"""Permanent failures of an origin itself: no robots.txt can be had there, but no file either."""

_AGENT_LINE = re.compile(r"\s*user[- ]?agent(?:\s*:|\s)\s*([^#]*)", re.IGNORECASE)
_US, _OTHER = "us", "another"


@dataclass(frozen=True, slots=True)
class Rules:
    """What one origin asks of us: `gap` is its crawl delay, in seconds, as far as it is granted."""

    parser: Protego | None = None
    gap: float = 0.0
    size: int = 0

    def allows(self, url: URL) -> bool:
        return self.parser is None or bool(self.parser.can_fetch(str(url), _US))


def parse_rules(body: bytes, agent: str) -> Rules:
    """The rules of a robots.txt for the robot called `agent` (a lower-case product token).

    >>> text = b"User-agent: *\\nDisallow: /\\n\\nUser-agent: MMdata/9\\nAllow: /\\nDisallow: /p*.jpg$"
    >>> rules = parse_rules(text, "mmdata")
    >>> rules.allows(URL("http://a/x.jpg")), rules.allows(URL("http://a/p/x.jpg"))
    (True, False)
    """
    if len(body) >= PARSED_BYTES:  # The last line is a part of a line: "Disallow: /" of "Disallow: /private".
        body = body[: max(body.rfind(b"\n"), body.rfind(b"\r"), 0)]
    text = body.decode("utf-8-sig", "replace")
    if ":" not in text:
        return Rules()
    parser = Protego.parse("\n".join(_addressed(line, agent) for line in text.splitlines()))
    delay = parser.crawl_delay(_US)
    return Rules(parser, min(float(delay or 0.0), CRAWL_DELAY_MAX), len(text))


def _addressed(line: str, agent: str) -> str:
    """Put `us` or `another` for the name of a robot. Names are compared here, whole and without version, as
    RFC 9309 (2.2.1) says; the parser would also take "mm" for a name of "mmdata"."""
    match = _AGENT_LINE.match(line)
    if match is None:
        return line
    name = match[1].strip()
    if name == "*":
        return "User-agent: *"
    token = product_token(name)
    return f"User-agent: {_US if token and token == agent else _OTHER}"


class Robots:
    """The rules of every origin met so far. One request is under way per origin, whoever waits for it."""

    def __init__(self, spec: FetchSpec, exchange: Exchange) -> None:
        self._spec = spec
        self._agent = product_token(spec.user_agent)
        self._exchange = exchange
        self._known: OrderedDict[Origin, tuple[float, Rules | FetchError]] = OrderedDict()
        self._kept = 0
        self._asked: dict[Origin, asyncio.Task[Rules | FetchError]] = {}

    async def rules(self, url: URL) -> Rules:
        """The rules of the origin of `url`. Raises FetchError: `robots_unreachable` where they cannot be had for
        now (RFC 9309, 2.3.1.4: then nothing may be fetched), or what makes the origin itself impossible."""
        origin = origin_of(url)
        loop = asyncio.get_running_loop()
        expires, found = self._known.get(origin, (0.0, None))
        if found is None or expires < loop.time():
            task = self._asked.get(origin)
            if task is None:
                task = self._asked[origin] = loop.create_task(self._fetch(origin, url.origin()))
                task.add_done_callback(lambda _: self._asked.pop(origin, None))
            # Shielded: the record that asked first may be cut off, those that wait with it are not.
            found = await asyncio.shield(task)
        else:
            self._known.move_to_end(origin)
        if isinstance(found, FetchError):
            raise found.again()
        return found

    def close(self) -> None:
        for task in list(self._asked.values()):
            task.cancel()

    async def _fetch(self, origin: Origin, root: URL) -> Rules | FetchError:
        found: Rules | FetchError
        try:
            found = await persist(self._spec, lambda fresh: self._attempt(root, fresh))
        except FetchError as error:
            if error.reason in _OWN:
                found = error
            elif error.reason in UNREACHABLE:
                # Nobody is there to be asked: that is what a report should say, not that rules are missing.
                found = transient(error.reason, f"{root}robots.txt: {error.detail}", final=True)
            else:
                found = transient("robots_unreachable", f"{root}robots.txt: {error}", final=True)
        keep = _FRESH_SECONDS if isinstance(found, Rules) else _RETRY_SECONDS
        self._forget(origin)
        self._known[origin] = (asyncio.get_running_loop().time() + keep, found)
        self._kept += _weight(found)
        while self._kept > _KEPT_CHARACTERS and len(self._known) > 1:
            self._forget(next(iter(self._known)))
        return found

    def _forget(self, origin: Origin) -> None:
        _, found = self._known.pop(origin, (0.0, None))
        if found is not None:
            self._kept -= _weight(found)

    async def _attempt(self, root: URL, fresh: bool) -> Rules:
        url = root.with_path("/robots.txt")
        for hop in range(_REDIRECTS_MAX + 1):
            try:
                answer = await self._exchange.ask(url, self._read, Tally(), fresh=fresh)
            except FetchError as error:
                if hop and error.state != "failed_transient":
                    raise transient("robots_unreachable", f"redirected to {url}: {error}", final=True) from error
                raise
            if isinstance(answer, Rules):
                return answer
            url = answer
        return Rules()  # RFC 9309, 2.3.1.2: after too many redirects, as if there were none.

    async def _read(self, response: aiohttp.ClientResponse) -> Rules | URL:
        status = response.status
        location = response.headers.get("Location", "")
        if status in REDIRECTS and location.strip():
            return join_url(response.url, location)
        if status in TRANSIENT_STATUSES:  # With 429: who asks for patience has not said that all is allowed.
            raise self._exchange.refusal(response)
        if 400 <= status < 500 or status == 204:
            return Rules()
        if status != 200:
            raise transient("robots_unreachable", f"HTTP {status}", final=True)
        body = await read_body(response, PARSED_BYTES, Tally(), cut=True)
        if len(body) < 1 << 14:
            return parse_rules(body, self._agent)
        return await asyncio.to_thread(parse_rules, body, self._agent)


def _weight(found: Rules | FetchError) -> int:
    return _ENTRY + (found.size if isinstance(found, Rules) else 0)
