"""`python -m mmdata.compact`: write a dataset again without its removed samples, and its small shards as fewer."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdata import unread
from mmdata.engine import binding, commit, compaction, recover
from mmdata.errors import DataError, RunError, SpecError
from mmdata.folders import dataset_folder
from mmdata.outputs.finish import finish
from mmdata.report_page import ahead
from mmdata.shards import manifest as manifests
from mmdata.shards import tombstones
from mmdata.shards.dataset import Dataset
from mmdata.shards.manifest import Manifest

MIB = 1 << 20
SHARD_MIB = 256


def compact_dataset(path: Path, output: Path | None = None, *, shard_mib: int = SHARD_MIB) -> Manifest:
    """Write a finished dataset again, in its place or as another one at `output`, without the samples that tombstones
    remove (`mmdata.forget`) and with units that follow each other put together while they hold at most `shard_mib` MiB.
    Returns its manifest; in place, that of the dataset as it is where there is nothing to do.

    Bytes of samples that stay do not change, nor do their keys, rows and origins; the ledger has the others as
    `filtered: forgotten`. In place, files get new names, the generation grows by one, and the tombstones go with what
    they removed. A killed compaction goes on when it is called again. Raises DataError for a dataset that is unfinished
    or damaged, SpecError for one whose tars are others' and for an `output` that is something else, and RunError where
    another command works on it or has left something unfinished.
    """
    folder = path if output is None else output
    if _marked(folder):
        with binding.locked(folder):
            return _publish(folder)
    dataset = Dataset(path)
    manifest = dataset.manifest
    if dataset.folder.remote:
        raise SpecError(f"{path}: compacts local folders; copy the dataset here")
    if "index" in manifest.spec:
        raise SpecError(f"{path}: its tars are others'; build from it with a source of kind `dataset` instead")
    if binding.appending(path) is not None:
        raise RunError(f"{path}: an append has begun and not ended; run that build again first")
    if output is not None and not _ours(output):
        raise SpecError(f"--output {output}: there is something else; give a new folder")
    removals, removed = dataset.removals(), dataset.masked()
    groups = compaction.plan(list(manifest.shards), removed, shard_mib * MIB)
    if output is None and compaction.unchanged(groups, removed):
        return manifest
    (folder / ".build").mkdir(parents=True, exist_ok=True)
    started = time.time()
    with binding.locked(folder):
        plan: dict[str, Any] = {
            "root_digest": manifest.root_digest,
            "generation": manifest.generation,
            "removals": removals[-1].digest if removals else "",
            "shard_mib": shard_mib,
        }
        done = compaction.prepare(folder, plan)
        for number, group in enumerate(groups):
            if number not in done:
                compaction.write(dataset, folder, number, group, removed)
        _bind(path, folder, manifest)
        run = manifests.read_json(path / "stats.json")["run"]
        figures = {
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(time.time() - started, 3),
            "forgotten": len(removed),
            "units": [len(manifest.shards), len(groups)],
        }
        run["compactions"] = [*run.get("compactions", ()), figures]
        recover.begin_publish(folder, manifest.generation + 1, run, by=recover.COMPACT)
        if tombstones.read(path) != removals:  # from the mark on nobody can remove any here
            (folder / ".build" / "publish.json").unlink()
            raise RunError(f"{path}: samples were removed meanwhile; run it again")
        return _publish(folder)


def _marked(folder: Path) -> bool:
    """Whether a compaction was interrupted while it was published."""
    mark = recover.publishing(folder)
    return mark is not None and mark.get("by") == recover.COMPACT


def _ours(output: Path) -> bool:
    """Whether there is nothing yet, or what an interrupted compaction has left."""
    if not output.exists() or not any(output.iterdir()):
        return True
    return not (output / "manifest.json").exists() and (output / ".build" / compaction.AREA).exists()


def _bind(path: Path, folder: Path, manifest: Manifest) -> None:
    """What a build goes on from, also in another folder."""
    bound = {"spec": manifest.spec, "inputs": manifest.inputs, "plugins": manifest.plugins}
    (folder / ".build" / "build.json").write_bytes(commit.canonical(bound))
    if folder != path and (path / binding.INPUTS).is_dir():
        shutil.copytree(path / binding.INPUTS, folder / binding.INPUTS, dirs_exist_ok=True)


def _publish(folder: Path) -> Manifest:
    mark = recover.publishing(folder)
    assert mark is not None, folder
    compaction.publish(folder)
    commit.prepare(folder)
    bound = manifests.read_json(folder / ".build" / "build.json")
    manifest = finish(folder, bound, ahead.make, generation=mark["generation"], run=mark["run"])
    compaction.clean(folder, manifest)
    return manifest


@unread.goes_on
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.compact",
        description=__doc__.split(": ", 1)[1],
        epilog="Samples that stay keep their bytes, keys and rows; the ledger tells of the others as filtered: "
        "forgotten.\nShards get new names: who has the dataset open is told to open it again once a file is needed "
        "that is gone,\nand a stream's state from before is refused, since the order is another one.\nKilled, it goes "
        "on when run again.\n\nexit codes: 0 done; 1 cannot write; 2 no dataset that can be compacted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("dataset", type=dataset_folder, help="folder of a finished dataset")
    parser.add_argument("--output", type=Path, metavar="DIR", help="a new folder; default: in its place")
    parser.add_argument(
        "--shard-mib", type=int, default=SHARD_MIB, metavar="N", help="put small shards together up to this size"
    )
    options = parser.parse_args(argv)
    if options.shard_mib < 1:
        parser.error("--shard-mib: at least 1")
    try:
        before = manifests.read(options.dataset)
        manifest = compact_dataset(options.dataset, options.output, shard_mib=options.shard_mib)
    except (DataError, SpecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    place = options.output or options.dataset
    if manifest == before:
        print(f"{place}: no removed samples, no shards to put together; nothing to do")
        return 0
    print(
        f"{place}: {before.samples - manifest.samples:,} removed samples are gone, {manifest.samples:,} stay; "
        f"{len(before.shards)} units are now {len(manifest.shards)}; generation {manifest.generation}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
