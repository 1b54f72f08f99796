"""`python -m mmdata.forget`: remove samples from a finished dataset by tombstones, without rewriting a shard."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmdata.errors import DataError, RunError
from mmdata.shards import tombstones
from mmdata.shards.dataset import open_dataset
from mmdata.shards.tombstones import Removal, Tombstone


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


def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.forget",
        description=__doc__.split(": ", 1)[1],
        epilog="Streams mask the samples at once and leave them out from their next epoch on; shards keep their bytes."
        "\nexit codes: 0 done; 1 cannot write; 2 unknown keys, nothing is removed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=Path, help="folder of a finished dataset")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--keys", nargs="+", metavar="KEY", help="keys of samples")
    given.add_argument("--file", type=Path, metavar="FILE", help="a file of keys, one a line")
    parser.add_argument("--reason", required=True, help="why, for the record: opt_out, licence, ...")
    options = parser.parse_args(argv)
    try:
        keys = options.keys or [line.strip() for line in options.file.read_text().splitlines() if line.strip()]
        removal = forget(options.dataset, keys, options.reason)
    except (DataError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if removal is None:
        print(f"{options.dataset}: removed before; nothing to do")
    else:
        name = tombstones.name(removal.generation)
        print(f"{options.dataset}: {len(removal.stones):,} samples removed by {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
