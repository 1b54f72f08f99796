"""The collector is out of the way for a while, and no longer."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from mmdata.collector import paused


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_collects_again_afterwards() -> None:
    with paused():
        assert not gc.isenabled()
        with paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_collects_again_after_an_error() -> None:
    with pytest.raises(KeyError), paused():
        raise KeyError
    assert gc.isenabled()


def test_who_runs_without_it_goes_on_without_it() -> None:
    gc.disable()
    with paused():
        pass
    assert not gc.isenabled()
