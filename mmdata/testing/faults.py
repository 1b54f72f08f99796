"""What goes wrong between a row and its bytes: faults of rows, of servers and of wishes, each with its expected end.

Files themselves are damaged in `damage.py`. Every fault is a row of a table, so that the list is the documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmdata.testing.plan import Behaviour
from mmdata.types import State

Answers = Mapping[tuple[str, str], tuple[Behaviour, ...]]
"""Behaviours by (origin, path)."""

# Larger than the default `max_bytes`; sent without a word of how much is to come.
OVERSIZE = 25_000_000

ORIGINS = ("main", "mirror", "busy", "closed", "broken", "slow", "hole", "down")
"""`busy` asks for patience, which a polite client grants to the whole host; `closed` forbids everything in its
robots.txt and `broken` cannot serve it; `slow` holds what waits for deadlines, `hole` swallows connections, and
nobody listens at `down`."""

ROBOTS: dict[tuple[str, str], tuple[Behaviour, ...]] = {
    ("main", "/robots.txt"): (
        Behaviour(body="User-agent: *\nDisallow: /private/\n\nUser-agent: some-other-bot\nDisallow: /\n"),
    ),
    ("closed", "/robots.txt"): (Behaviour(body="User-agent: *\nDisallow: /\n"),),
    ("broken", "/robots.txt"): (Behaviour(status=503),),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebFault:
    """A fault of a server. `answers(file, path)` are the behaviours behind a URL on `origin` with that path, where
    `file` is the good picture to be had (or not). `slow` faults end only when a deadline passes."""

    kind: str
    answers: Callable[[str, str], Answers]
    origin: str = "main"
    folder: str = "images"
    state: State = "failed_permanent"
    reason: str = ""
    slow: bool = False


def _always(origin: str = "main", **how: Any) -> Callable[[str, str], Answers]:
    def answers(file: str, path: str) -> Answers:
        sends = None if how.keys() & {"status", "body", "size", "redirect", "instead"} else file
        return {(origin, path): (Behaviour(file=sends, **how),)}

    return answers


def _first(times: int, origin: str = "main", **how: Any) -> Callable[[str, str], Answers]:
    """Fail so many times, then serve the picture."""

    def answers(file: str, path: str) -> Answers:
        return {(origin, path): (Behaviour(times=times, **how), Behaviour(file=file))}

    return answers


def _hops(*, to: str = "main", folder: str = "images") -> Callable[[str, str], Answers]:
    """Two redirects, the second one to the picture at origin `to`."""

    def answers(file: str, path: str) -> Answers:
        name = path.rpartition("/")[2]
        hop, end = f"/hop/{name}", f"/{folder}/landed-{name}"
        return {
            ("main", path): (Behaviour(redirect=hop, status=301),),
            ("main", hop): (Behaviour(redirect=f"{{{to}}}{end}", status=307),),
            (to, end): (Behaviour(file=file),),
        }

    return answers


def _nothing(file: str, path: str) -> Answers:
    """No behaviour: the file itself, if anybody asks."""
    return {}


def _refused(kind: str, **how: Any) -> WebFault:
    return WebFault(kind=kind, answers=_always(**how), reason=kind)


def _transient(kind: str, reason: str, **how: Any) -> WebFault:
    return WebFault(kind=kind, answers=_always(**how), state="failed_transient", reason=reason)


def _header(kind: str, reason: str, name: str, value: str) -> WebFault:
    return WebFault(kind=kind, answers=_always(headers={name: value}), state="opted_out", reason=reason)


def _fine(kind: str, answers: Callable[[str, str], Answers], origin: str = "main") -> WebFault:
    return WebFault(kind=kind, answers=answers, origin=origin, state="ok")


WEB: tuple[WebFault, ...] = (
    # Gone for good.
    _refused("http_403", status=403),
    _refused("http_404", status=404),
    _refused("http_410", status=410),
    _refused("http_451", status=451),
    # Perhaps another day.
    _transient("http_500", "http_500", status=500),
    _transient("http_503", "http_503", status=503),
    WebFault(
        kind="http_429",
        origin="busy",
        answers=_always("busy", status=429, headers={"Retry-After": "1"}),
        state="failed_transient",
        reason="http_429",
    ),
    _transient("reset", "reset", instead="reset"),
    _transient("hung_up", "reset", instead="close"),
    WebFault(
        kind="reset_in_body",
        answers=_always(send=2000, end="reset"),
        state="failed_transient",
        reason="reset",
    ),
    WebFault(
        kind="short_body",
        answers=_always(send=2000),
        state="failed_transient",
        reason="short_body",
    ),
    WebFault(
        kind="short_chunks",
        answers=_always(send=2000, declare="chunked"),
        state="failed_transient",
        reason="short_body",
    ),
    WebFault(kind="connect_error", origin="down", answers=_nothing, state="failed_transient", reason="connect_error"),
    WebFault(
        kind="connect_timeout",
        origin="hole",
        answers=_nothing,
        state="failed_transient",
        reason="connect_timeout",
        slow=True,
    ),
    WebFault(
        kind="no_answer",
        origin="slow",
        answers=_always("slow", instead="hang"),
        state="failed_transient",
        reason="read_timeout",
        slow=True,
    ),
    WebFault(
        kind="stalled_body",
        origin="slow",
        answers=_always("slow", send=2000, end="hang"),
        state="failed_transient",
        reason="read_timeout",
        slow=True,
    ),
    WebFault(
        kind="endless_drip",
        origin="slow",
        answers=_always("slow", size=10_000, drip_bytes=1, drip_seconds=0.2),
        state="failed_transient",
        reason="total_timeout",
        slow=True,
    ),
    # Too much, or too strange.
    WebFault(
        kind="oversized_declared",
        answers=_always(body="", declare=10**9),
        reason="too_large",
    ),
    WebFault(
        kind="oversized_undeclared",
        answers=_always(size=OVERSIZE, declare="none"),
        reason="too_large",
    ),
    WebFault(kind="gzip_bomb", answers=_always(size=2 * OVERSIZE, gzip=True), reason="decompression_bomb"),
    WebFault(
        kind="unknown_encoding",
        answers=_always(headers={"Content-Encoding": "x-rot13"}),
        reason="content_encoding",
    ),
    WebFault(kind="empty_body", answers=_always(body=""), reason="empty_body"),
    WebFault(
        kind="body_longer_than_said",
        answers=_always(declare=3000),
        reason="truncated_image",
    ),
    WebFault(
        kind="redirect_loop",
        answers=lambda file, path: {("main", path): (Behaviour(redirect=path),)},
        reason="too_many_redirects",
    ),
    WebFault(kind="redirect_to_file", answers=_always(redirect="file:///etc/passwd"), reason="bad_scheme"),
    WebFault(kind="redirect_to_nowhere", answers=_always(status=302, body="moved"), reason="bad_redirect"),
    # Wishes.
    WebFault(kind="robots_path", folder="private", answers=_always(), state="opted_out", reason="robots_disallowed"),
    WebFault(
        kind="robots_site", origin="closed", answers=_always("closed"), state="opted_out", reason="robots_disallowed"
    ),
    WebFault(kind="robots_behind_redirect", answers=_hops(to="closed"), state="opted_out", reason="robots_disallowed"),
    WebFault(
        kind="robots_unreachable",
        origin="broken",
        answers=_always("broken"),
        state="failed_transient",
        reason="robots_unreachable",
    ),
    _header("noai", "x_robots_noai", "X-Robots-Tag", "noai"),
    _header("noimageai", "x_robots_noimageai", "X-Robots-Tag", "all, noimageai"),
    _header("noindex", "x_robots_noindex", "X-Robots-Tag", "noindex, nofollow"),
    _header("tdm_reservation", "tdm_reservation", "TDM-Reservation", "1"),
    # Odd, but to be kept.
    _fine("late_500", _first(2, status=500)),
    _fine("late_429", _first(1, "busy", status=429, headers={"Retry-After": "1"}), "busy"),
    _fine("late_503_date", _first(1, "busy", status=503, retry_after_date=1.0), "busy"),
    _fine("late_reset", _first(1, instead="reset")),
    _fine("slow_head", _always(delay=0.5)),
    _fine("slow_body", _always(drip_bytes=16_384, drip_seconds=0.02)),
    _fine("chunked", _always(declare="chunked")),
    _fine("no_length", _always(declare="none")),
    _fine("gzip_encoded", _always(gzip=True)),
    _fine("wrong_type", _always(content_type="text/html")),
    _fine("redirected", _hops()),
    _fine("redirected_abroad", _hops(to="mirror")),
    _fine("not_reserved", _always(headers={"TDM-Reservation": "0", "X-Robots-Tag": "some-other-bot: noai"})),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFault:
    """A fault of the table itself: `change` overrides columns of an otherwise good row."""

    kind: str
    change: Mapping[str, Any]
    state: State = "filtered"
    reason: str = "where"


ROWS: tuple[RowFault, ...] = (
    RowFault(kind="null_url", change={"URL": None}, state="failed_permanent", reason="bad_url"),
    RowFault(kind="blank_url", change={"URL": "  "}, state="failed_permanent", reason="bad_url"),
    RowFault(
        kind="malformed_url", change={"URL": "http://[half/of/it.jpg"}, state="failed_permanent", reason="bad_url"
    ),
    RowFault(
        kind="unknown_scheme", change={"URL": "gopher://127.0.0.1/1.jpg"}, state="failed_permanent", reason="bad_scheme"
    ),
    RowFault(kind="unsafe", change={"punsafe": 0.97}),
    RowFault(kind="dissimilar", change={"similarity": 0.05}),
    # No score is no reason to reject, says the example's `where`; a NaN is none.
    RowFault(kind="nan_similarity", change={"similarity": float("nan")}, state="ok", reason=""),
    RowFault(kind="null_scores", change={"similarity": None, "punsafe": None}, state="ok", reason=""),
    RowFault(kind="empty_caption", change={"TEXT": ""}, reason="caption_empty"),
    RowFault(kind="null_caption", change={"TEXT": None}, reason="caption_length"),
    RowFault(kind="one_letter_caption", change={"TEXT": "x"}, reason="caption_length"),
    RowFault(kind="endless_caption", change={"TEXT": "buy cheap pictures " * 300}, reason="caption_length"),
)
