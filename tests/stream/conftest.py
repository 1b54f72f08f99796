"""One small dataset and one family for all stream tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.families import Family, get_family
from tests.dataset_fixture import write_dataset
from tests.tokenizer_fixture import small_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("stream") / "dataset", samples=43)


@pytest.fixture(scope="session")
def family() -> Family:
    return get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})
