"""One thread for all tests in a process: what they compare bit for bit depends on how many there are, and workers that
run side by side only wait for each other's second thread. Processes that a test starts inherit it."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# `max_examples` of what does not ask for more by itself; how long an example takes says more of the machine than of
# what it tests. The suite's examples are the same each time, so that it fails by what was changed and not by luck;
# `make soak` searches among new ones.
settings.register_profile("suite", max_examples=40, deadline=None, derandomize=True)
settings.register_profile("search", max_examples=400, deadline=None)
settings.load_profile("suite")
os.environ["OMP_NUM_THREADS"] = "1"  # before anything imports torch


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """No garbage is looked for in what stays: neither while modules are imported and tests collected, nor later in a
    million objects of theirs, which is most of a second each time; in what tests make less often than by default,
    which is a fiftieth of their time."""
    gc.disable()
    yield
    gc.enable()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    """What is going to run here is imported, and nothing has run: when to fork what starts processes for tests."""
    if session.items and not session.config.option.collectonly:
        from tests import forked

        _in_vain()
        forked.collected()


def _in_vain() -> None:
    """Leave out what libraries do for nobody, a millisecond each time: Hugging Face renders a whole config into the
    message of each type that it is not of, and torch a traceback for each seed of a device that is not there."""
    if configs := sys.modules.get("transformers.configuration_utils"):
        configs.PreTrainedConfig.__repr__ = object.__repr__
    if "torch" in sys.modules:
        import torch

        for device in (torch.cuda, torch.xpu, torch.mtia):
            if not device.is_available():
                device.manual_seed_all = lambda seed: None


@pytest.fixture(autouse=True, scope="session")
def _pictures_are_made_once() -> Iterator[None]:
    """The first pictures of a longer example are those of a shorter one, which tests/testing/test_photos.py checks:
    what examples of a seed are made of is kept."""
    from mmdata.testing import making

    made: dict[int, list[Any]] = {}
    genuine = making.variants

    def variants(n: int, seed: int = 0) -> Iterator[Any]:
        kept = made.setdefault(seed, [])
        yield from kept[:n]
        if n > len(kept):
            for variant in itertools.islice(genuine(n, seed), len(kept), None):
                kept.append(variant)
                yield variant

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "variants", variants)
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _workers_are_forked() -> Iterator[None]:
    """Builds in this process fork their workers although torch is loaded, for it has one thread here: a worker started
    afresh imports for seconds what this process has. What such a worker needs is checked still: that plugins and the
    fields of steps make the steps again. `tests/engine/test_pool.py` and `tests/test_build_hostile.py` start them."""
    from tqdm import tqdm

    from mmdata import build
    from mmdata.engine import pool
    from mmdata.engine.worker import as_fields, made_again
    from mmdata.spec import StepSpec

    real = pool.fork_workers

    def fork_workers(steps: tuple[StepSpec, ...], count: int, memory_mib: int | None = None) -> list[pool.Process]:
        return real(made_again(as_fields(steps)), count, memory_mib)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "may_fork", lambda: sys.platform == "linux" and threading.active_count() == 1)
        patch.setattr(build, "fork_workers", fork_workers)
        patch.setattr(tqdm, "monitor_interval", 0)  # else the first bar starts a thread that stays
        yield


@pytest.fixture(scope="session")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of pairs of answers (`tests.preferences`)."""
    from tests.preferences import write_pairs

    return write_pairs(tmp_path_factory.mktemp("preferences"))
