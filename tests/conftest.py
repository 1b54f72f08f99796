"""One thread for all tests in a process: what they compare bit for bit depends on how many there are, and workers that
run side by side only wait for each other's second thread. Processes that a test starts inherit it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of pairs of answers (`tests.preferences`)."""
    from tests.preferences import write_pairs

    return write_pairs(tmp_path_factory.mktemp("preferences"))
