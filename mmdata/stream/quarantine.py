"""Quarantine: the bytes of a sample that could not be read, copied as they are for a person to look at."""

from __future__ import annotations

import logging
from pathlib import Path

from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.shards.storage import write_atomic

log = logging.getLogger(__name__)


def keep(folder: Path, dataset: Dataset, position: int, key: str) -> list[Path]:
    """Copy every part of a sample to `folder/DATASET/KEY.PART`, whatever its bytes are by now; what cannot be read at
    all is told in the log and left out. A sample that is there already is not copied again."""
    into = folder / dataset.path.name
    kept = []
    try:
        into.mkdir(parents=True, exist_ok=True)
        as_it_is = open_dataset(dataset.uri, integrity="off", cache=dataset.folder.cache)
        for part in as_it_is.row(position).parts:
            path = into / f"{key}.{part.name}"
            if part.place is not None and not path.exists():
                write_atomic(path, as_it_is.read(position, part.place))
                kept.append(path)
    except (OSError, DataError) as error:
        log.warning("%s: %s cannot be quarantined: %s", dataset.path, key, error)
    return kept
