"""A decoder that eats memory costs its record, not the run and not the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.building import build, folder_of_pictures, ledger, write_spec

PLUGIN = """
import ctypes
from typing import Literal
from mmdata.registry import register
from mmdata.spec import StepSpec

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
kept = []


@register("step", "greedy")
class Greedy(StepSpec):
    kind: Literal["greedy"] = "greedy"

    def apply(self, sample, work):
        number = int(sample.key)
        if number == 1:  # as Python and NumPy do: told that there is no more
            while True:
                kept.append(bytearray(32 << 20))
        if number == 3:  # as careless libraries do: not looking at what malloc answers
            while True:
                LIBC.memset(LIBC.malloc(32 << 20), 1, 32 << 20)
        return sample
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's RLIMIT_DATA")
@pytest.mark.parametrize("afresh", [False, pytest.param(True, marks=pytest.mark.soak)], ids=["forked", "afresh"])
def test_a_decoder_that_eats_memory_costs_its_record(tmp_path: Path, afresh: bool) -> None:
    (tmp_path / "greedy.py").write_text(PLUGIN + ("\nimport torch\n" if afresh else ""))
    folder_of_pictures(tmp_path / "in", 5)
    spec = write_spec(
        tmp_path / "spec.yaml",
        {"kind": "folder", "path": "in"},
        [{"kind": "greedy"}, {"kind": "probe"}],
        plugins=["greedy.py"],
        engine={"workers": 1, "worker_memory_mib": 512},
    )
    build(spec)
    rows = ledger(tmp_path / "out")
    assert [(row.state, row.reason) for row in rows] == [
        ("ok", ""),
        ("failed_permanent", "decoder_memory"),
        ("ok", ""),
        ("failed_permanent", "decoder_crashed"),
        ("ok", ""),
    ]
    assert "engine.worker_memory_mib" in rows[1].detail
