"""Expected ends against those of a ledger: what is lost, what comes twice, what ended otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from mmdata.ledger import read_rows

SHOWN = 20
"""Problems that an account describes in words; it counts all."""
K = TypeVar("K", bound=Hashable)
End = tuple[str, str]
"""State and reason: `("ok", "")`, `("failed_permanent", "truncated_image")`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What came of the comparison: records that were expected, those that have no end, that have several, and that
    have another one than they had to; `problems` has a line for each of the first."""

    records: int
    losses: int
    duplicates: int
    wrong: int
    problems: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not (self.losses or self.duplicates or self.wrong)

    def __str__(self) -> str:
        head = f"{self.records} records: {self.losses} lost, {self.duplicates} twice, {self.wrong} ended otherwise"
        return "\n".join([head, *self.problems])


def settle(
    expected: Mapping[K, Collection[End]],
    found: Iterable[tuple[K, End]],
    names: Mapping[K, str] | None = None,
) -> Account:
    """Compare what became of records with the ends that each of them may have. `names` says what a record is, for the
    problems' sake.

    >>> allowed = {0: [("ok", "")], 1: [("failed_permanent", "http_404")], 2: [("ok", "")]}
    >>> print(settle(allowed, [(0, ("ok", "")), (0, ("ok", "")), (1, ("ok", ""))]))
    3 records: 1 lost, 1 twice, 1 ended otherwise
    2: has no end
    0: has 2 ends
    1: ok, not failed_permanent http_404
    """
    ends: dict[K, list[End]] = {}
    for key, end in found:
        ends.setdefault(key, []).append(end)
    count: Counter[str] = Counter()
    problems: list[str] = []

    def wrong(what: str, key: K, text: str) -> None:
        count[what] += 1
        if len(problems) < SHOWN:
            problems.append(f"{key}{f' ({names[key]})' if names and key in names else ''}: {text}")

    for key in expected:
        if key not in ends:
            wrong("lost", key, "has no end")
    for key, came in ends.items():
        if len(came) > 1:
            wrong("twice", key, f"has {len(came)} ends")
        if key not in expected:
            wrong("other", key, "was not expected at all")
        elif stray := [end for end in came if end not in expected[key]]:
            allowed = " or ".join(_said(end) for end in list(expected[key])[:3])
            wrong("other", key, f"{_said(stray[0])}, not {allowed}")
    return Account(
        records=len(expected),
        losses=count["lost"],
        duplicates=count["twice"],
        wrong=count["other"],
        problems=tuple(problems),
    )


def _said(end: End) -> str:
    return " ".join(filter(None, end))


def ledger_ends(dataset: str | Path) -> Iterator[tuple[int, End]]:
    """The ends of a built dataset's input records, by row."""
    for file in sorted((Path(dataset) / "ledger").glob("*.parquet")):
        for row in read_rows(file):
            yield row.row, (row.state, row.reason)
