"""One small dataset, tokenizer and model for all trainer tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dataset_fixture import write_dataset


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("train") / "dataset", samples=36)
