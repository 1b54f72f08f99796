"""Opt-outs that a response carries in its headers."""

from __future__ import annotations

from collections.abc import Collection

from multidict import CIMultiDictProxy

from mmdata.fetch.failure import FetchError, opted_out
from mmdata.optout import Wish, refusal, robots_tags


def opt_out(headers: CIMultiDictProxy[str], agent: str, honoured: Collection[Wish]) -> FetchError | None:
    """The opt-out among those `honoured` that a response's headers express, or None. The first in the order of
    `honoured` is reported."""
    if "X-Robots-Tag" not in headers and "TDM-Reservation" not in headers:
        return None
    told = headers.getall("X-Robots-Tag", ())
    reason = refusal(robots_tags(told, agent), headers.getall("TDM-Reservation", ()), honoured)
    if reason is None:
        return None
    return opted_out(
        reason, "TDM-Reservation: 1" if reason == "tdm_reservation" else f"X-Robots-Tag: {', '.join(told)[:200]}"
    )
