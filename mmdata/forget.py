"""`python -m mmdata.forget`: remove samples from a finished dataset by tombstones, without rewriting a shard."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmdata import expression, pointer, unread
from mmdata.errors import DataError, RunError, SpecError
from mmdata.folders import dataset_folder
from mmdata.registry import nearest
from mmdata.shards import tombstones
from mmdata.shards.dataset import open_dataset
from mmdata.shards.tombstones import Removal, Tombstone
from mmdata.steps.where import names


def forget(dataset: Path, keys: Iterable[str], reason: str) -> Removal | None:
    """Write tombstones for these keys and return them; None where all have been removed before.

    A stream that is opened, or resumed, afterwards masks them at once and leaves them out from its next epoch on.
    Raises DataError for an unfinished or damaged dataset and for keys that it does not have (then none is removed),
    RunError where the file cannot be written.
    """
    opened = open_dataset(dataset)
    wanted = list(dict.fromkeys(keys))
    unknown = [key for key in wanted if key not in opened]
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError("key_unknown", f"{dataset} has no key {', '.join(unknown[:5])}{more}; nothing is removed")
    gone = {stone.key for removal in tombstones.read(dataset) for stone in removal.stones}
    stones = [Tombstone(key=key, position=opened.position(key), reason=reason) for key in wanted if key not in gone]
    return tombstones.append(dataset, sorted(stones, key=lambda stone: stone.position)) if stones else None


def matching(dataset: Path, where: str) -> list[str]:
    """Keys of the samples for which an expression is true, in their order. It reads what the step `where` reads (the
    record's metadata, facts of the first medium, `caption`), and `key`.

    Raises SpecError for what is no expression or names what no sample has, DataError as `forget` and for values of the
    wrong type.
    """
    try:
        compiled = expression.compile(where)
    except ValueError as error:
        raise SpecError(f"--{error}") from None
    opened = open_dataset(dataset)
    known: set[str] = set()
    found = []
    for position in range(len(opened)):
        sample = opened.sample(position, media=False)
        row = {"key": sample.key, **names(sample)}
        known |= row.keys()
        if compiled.test({**dict.fromkeys(compiled.columns), **row}):
            found.append(sample.key)
    for name in sorted(compiled.columns - known):
        raise SpecError(f"--where: no sample of {dataset} has {name!r}; {nearest(name, sorted(known))}")
    return found


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.forget",
        description=__doc__.split(": ", 1)[1],
        epilog="Streams mask the samples at once and leave them out from their next epoch on; shards keep their bytes."
        "\nexit codes: 0 done; 1 cannot write; 2 unknown keys or a mistake in --where, nothing is removed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=dataset_folder, help="folder of a finished dataset")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--keys", "--ids", nargs="+", metavar="KEY", help="keys of samples")
    given.add_argument("--file", type=Path, metavar="FILE", help="a file of keys, one a line")
    given.add_argument(
        "--where",
        metavar="EXPRESSION",
        help="all for which it is true, e.g. 'similarity < 0.2 or contains(URL, \"x.org\")'",
    )
    parser.add_argument("--dry-run", action="store_true", help="say how many it would be, and remove none")
    parser.add_argument("--reason", required=True, help="why, for the record: opt_out, licence, ...")
    options = parser.parse_args(argv)
    try:
        if options.where is not None:
            keys = matching(options.dataset, options.where)
            if not keys:
                raise DataError("key_unknown", f"{options.dataset} has no sample for which {options.where!r} is true")
        else:
            keys = options.keys or [line.strip() for line in options.file.read_text().splitlines() if line.strip()]
        if options.dry_run:
            first = " ".join(keys[:10]) + " ..." * (len(keys) > 10)
            print(f"{options.dataset}: {len(keys):,} samples would be removed: {first}")
            return 0
        removal = forget(options.dataset, keys, options.reason)
    except (DataError, SpecError, UnicodeDecodeError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 1
    if removal is None:
        print(f"{options.dataset}: removed before; nothing to do")
    else:
        name = tombstones.name(removal.generation)
        print(f"{options.dataset}: {len(removal.stones):,} samples removed by {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
