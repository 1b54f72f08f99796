"""What a soak has done so far, in a file that survives a kill: the soak resumes as what it tries does."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mmdata.shards.storage import write_atomic

FILE = "soak.json"
SHOWN = 50


@dataclass(slots=True, kw_only=True)
class Tally:
    """Of one part of the soak: what was `done` of what it counts, and what went wrong, with a line for the first."""

    done: int = 0
    rounds: int = 0
    losses: int = 0
    duplicates: int = 0
    undetected: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    """Whatever else a part counts, by name."""
    problems: list[str] = field(default_factory=list)

    def count(self, **what: int) -> None:
        for name, number in what.items():
            self.counts[name] = self.counts.get(name, 0) + number

    def problem(self, text: str, *, losses: int = 0, duplicates: int = 0, undetected: int = 0) -> None:
        """Something is wrong: by default one undetected corruption, whatever it is."""
        self.losses += losses
        self.duplicates += duplicates
        self.undetected += undetected or int(not (losses or duplicates))
        if len(self.problems) < SHOWN:
            self.problems.append(text)

    @property
    def failed(self) -> int:
        return self.losses + self.duplicates + self.undetected


@dataclass(slots=True, kw_only=True)
class Figures:
    """All parts, by name, of a soak that was told `told`."""

    told: dict[str, int]
    parts: dict[str, Tally] = field(default_factory=dict)

    def part(self, name: str) -> Tally:
        return self.parts.setdefault(name, Tally())

    def sum(self, what: str) -> int:
        return sum(getattr(tally, what) for tally in self.parts.values())

    @property
    def cycles(self) -> int:
        """Kills that were followed by a start."""
        return sum(self.parts[name].done for name in ("build", "stream", "trainer") if name in self.parts)

    def save(self, folder: Path) -> None:
        write_atomic(folder / FILE, json.dumps(asdict(self), indent=1).encode())


def opened(folder: Path, told: dict[str, int]) -> Figures:
    """The figures in a folder, or new ones. Raises ValueError where they are of a soak that was told another seed."""
    file = folder / FILE
    if not file.exists():
        return Figures(told=told)
    body = json.loads(file.read_text(encoding="utf-8"))
    if body["told"]["seed"] != told["seed"]:
        raise ValueError(f"{folder} holds a soak of seed {body['told']['seed']}: give it, or another --folder")
    return Figures(told=told, parts={name: Tally(**tally) for name, tally in body["parts"].items()})
