"""The skip log: which samples a run could not read, so that every later read of it, wherever, makes the same choice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmdata.errors import RunError, SpecError
from mmdata.shards.storage import write_atomic

LOG = "skips.jsonl"
LIVE = "skips"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Mark:
    """How far a run was: in the pass that began with epoch `first_epoch`, `taken` packs; and of the step that began
    there, for each number of ranks that worked on it, `dealt` (ranks, micro-steps)."""

    first_epoch: int = 0
    taken: int = 0
    dealt: tuple[tuple[int, int], ...] = ()

    def reaches(self, other: Mark) -> bool:
        """Whether a run that is at this mark has been at the other one.

        >>> Mark(taken=8).reaches(Mark(taken=4, dealt=((2, 1),))), Mark(taken=4).reaches(Mark(taken=4, dealt=((2, 1),)))
        (True, False)
        """
        if (self.first_epoch, self.taken) != (other.first_epoch, other.taken):
            return (self.first_epoch, self.taken) > (other.first_epoch, other.taken)
        return not other.dealt or any(
            ranks == other.dealt[-1][0] and micros >= other.dealt[-1][1] for ranks, micros in self.dealt
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """One sample that was masked: of which dataset of the stream (its number and name), why, and the mark that the
    run had reached once it was past the pack."""

    dataset: int
    path: str
    key: str
    reason: str
    mark: Mark


class SkipLog:
    """The skips of a run, by dataset and key; the first of each counts.

    In `folder`, `skips.jsonl` holds all that belongs to the last saved state, in the order in which they were found,
    and `skips/` one file per process with what it has found. A process sees what others found when it calls `refresh`.
    Opening a folder forgets what this rank found since the last state; `restore` forgets all that came after a state.
    Without a folder the log lives and ends with its process.
    """

    def __init__(self, folder: Path | None, *, rank: int = 0, ranks: int = 1) -> None:
        self._folder = folder
        self._rank, self._ranks = rank, ranks
        self._worker = 0
        self._saved: list[Skip] = []
        self._known: dict[tuple[int, str], Skip] = {}
        if folder is not None:
            _make(folder / LIVE)
            for path in self._live(all_ranks=rank == 0):
                if _rank(path) == rank or _rank(path) >= ranks:
                    path.unlink(missing_ok=True)

    def reason(self, dataset: int, key: str) -> str | None:
        """Why a sample is masked in this run, if it is known to be."""
        known = self._known.get((dataset, key))
        return None if known is None else known.reason

    def __len__(self) -> int:
        return len(self._known)

    def add(self, skip: Skip) -> bool:
        """Note a sample that could not be read; whether that is news. Raises RunError where it cannot be written."""
        if (skip.dataset, skip.key) in self._known:
            return False
        self._known[skip.dataset, skip.key] = skip
        if self._folder is not None:
            path = self._folder / LIVE / f"{self._rank:05d}-{self._worker:03d}.jsonl"
            try:
                with open(path, "ab") as file:
                    file.write(_line(skip))
            except OSError as error:
                raise RunError(f"{path}: the skip log cannot be written: {error}") from error
        return True

    def refresh(self) -> None:
        """See what the other processes of the run have found."""
        if self._folder is not None:
            for path in self._live(all_ranks=True):
                for skip in _read(path):
                    self._known.setdefault((skip.dataset, skip.key), skip)

    def save(self, at: Mark) -> tuple[int, str]:
        """How many skips a run at a mark has behind it, and their digest; rank 0 puts them into `skips.jsonl`.

        All ranks must be past the mark, as they are between two steps of training."""
        self.refresh()
        saved = {(skip.dataset, skip.key) for skip in self._saved}
        new = [skip for name, skip in self._known.items() if name not in saved and at.reaches(skip.mark)]
        self._saved += sorted(new, key=lambda skip: (skip.mark, skip.dataset, skip.key))
        if new and self._folder is not None and self._rank == 0:
            try:
                write_atomic(self._folder / LOG, b"".join(map(_line, self._saved)))
            except OSError as error:
                raise RunError(f"{self._folder / LOG}: the skip log cannot be written: {error}") from error
        return len(self._saved), digest(self._saved)

    def restore(self, count: int, expected: str, at: Mark) -> None:
        """Go back to what was known at a saved state: `count` skips, of this digest, found up to `at`.

        Raises SpecError where the folder does not hold them."""
        kept = self._saved[:count]
        if self._folder is not None:
            kept = _read(self._folder / LOG)[:count]
            for path in self._live(all_ranks=False):
                if left := [skip for skip in _read(path) if at.reaches(skip.mark)]:
                    write_atomic(path, b"".join(map(_line, left)))
                else:
                    path.unlink(missing_ok=True)
        if (found := digest(kept)) != expected or len(kept) != count:
            where = "no run_folder was given" if self._folder is None else f"{self._folder / LOG} holds {len(kept)}"
            raise SpecError(
                f"run_folder: the state counts {count} skipped samples (digest {expected}), and {where} (digest "
                f"{found}); give the folder of the run that saved it"
            )
        self._saved = kept
        self._known = {(skip.dataset, skip.key): skip for skip in kept}
        if self._folder is not None and self._rank == 0 and len(_read(self._folder / LOG)) > count:
            write_atomic(self._folder / LOG, b"".join(map(_line, kept)))

    def follow(self, worker: int, count: int) -> None:
        """In a DataLoader worker: note under its number, and know the first `count` saved skips and all live ones."""
        self._worker = worker
        if self._folder is not None:
            self._saved = _read(self._folder / LOG)[:count]
            self._known = {(skip.dataset, skip.key): skip for skip in self._saved}
            self.refresh()

    @property
    def saved(self) -> int:
        """Skips of the last state that was saved or restored."""
        return len(self._saved)

    def _live(self, *, all_ranks: bool) -> list[Path]:
        assert self._folder is not None
        pattern = "*-*.jsonl" if all_ranks else f"{self._rank:05d}-*.jsonl"
        return sorted((self._folder / LIVE).glob(pattern))


def digest(skips: Sequence[Skip]) -> str:
    """12 hex digits of what is skipped and why, in their order."""
    content = json.dumps([[skip.dataset, skip.key, skip.reason] for skip in skips], separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _rank(path: Path) -> int:
    return int(path.name.partition("-")[0])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"run_folder: {folder} cannot be made: {error}") from error


def _line(skip: Skip) -> bytes:
    return json.dumps(asdict(skip)).encode() + b"\n"


def _read(path: Path) -> list[Skip]:
    """The skips of a file, in order; a last line that a kill cut is none. Raises SpecError for a damaged one."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    lines: Iterable[bytes] = text[: text.rfind(b"\n") + 1].splitlines()
    try:
        return [_skip(json.loads(line)) for line in lines]
    except (ValueError, TypeError, KeyError) as error:
        raise SpecError(f"{path}: not a skip log: {error}; remove it if the run may try all samples again") from error


def _skip(values: dict[str, Any]) -> Skip:
    mark = values.pop("mark")
    dealt = tuple((int(ranks), int(micros)) for ranks, micros in mark.pop("dealt"))
    return Skip(**values, mark=Mark(**mark, dealt=dealt))
