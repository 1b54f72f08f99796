"""The three kinds of failure: a spec that is wrong, data that is wrong, and a run that has failed too often."""

from __future__ import annotations

from dataclasses import dataclass, field


class SpecError(Exception):
    """The user's configuration is wrong. The message is complete: every problem, its place and a remedy.

    `reason` is a slug, as that of DataError is: docs/troubleshooting.md has an entry on it.
    """

    def __init__(self, message: str = "", *, reason: str = "spec_mistake") -> None:
        super().__init__(message)
        self.reason = reason


class DataError(Exception):
    """A piece of data is not what it should be.

    `reason` is a slug for the ledger (`truncated_image`), `detail` says what was seen and, for a person
    at a terminal, which file and what to do. Nothing else than data may be blamed through this class: a
    bug raises something else and stops the run.

    >>> str(DataError("truncated_image", "JPEG ends after 812 of 4,096 bytes"))
    'truncated_image: JPEG ends after 812 of 4,096 bytes'
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class RunError(Exception):
    """The run cannot go on (disk full, output not writable, budget spent). The message is one clear line, `reason` a
    slug, as that of SpecError is."""

    def __init__(self, message: str = "", *, reason: str = "run_failed") -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True, kw_only=True)
class Budget:
    """Bounds how much may go wrong before a run is called broken.

    `consecutive` failures in a row stop it; so does a failure rate above `rate` once `probation` records
    have been seen. Raises RunError that names the last failure.

    >>> budget = Budget(consecutive=3, rate=0.5, probation=4)
    >>> budget.ok(); budget.failed("shard 0, key a: crc32c")
    >>> budget.seen, budget.failures
    (2, 1)
    """

    consecutive: int = 100
    rate: float = 0.1
    probation: int = 1000
    seen: int = field(default=0, init=False)
    failures: int = field(default=0, init=False)
    streak: int = field(default=0, init=False)

    def ok(self, count: int = 1) -> None:
        self.seen += count
        self.streak = 0

    def failed(self, what: str) -> None:
        self.seen += 1
        self.failures += 1
        self.streak += 1
        if self.streak >= self.consecutive:
            raise RunError(f"{self.streak} records in a row have failed; the last: {what}")
        if self.seen >= self.probation and self.failures > self.rate * self.seen:
            raise RunError(
                f"{self.failures} of {self.seen} records have failed, "
                f"more than the allowed {self.rate:.1%}; the last: {what}"
            )
