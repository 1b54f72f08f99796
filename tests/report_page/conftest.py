"""One mixed build that the tests of pages share, and a second one of the same input with other steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import report_mixed as mixture

DUPLICATES = ({"kind": "exact_dedup"}, {"kind": "near_dup", "radius": 4})


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixture.mixed(tmp_path_factory.mktemp("mixed"), *DUPLICATES)


@pytest.fixture(scope="session")
def other(dataset: Path) -> Path:
    """Without deduplication, and with a filter of its own."""
    return mixture.mixed(dataset.parent, {"kind": "duration", "max_seconds": 3.5}, output="other")
