"""With and without the compiled kernels: the same bits of everything, and who wants none gets none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from mmdata.native import calls, library

DIGESTS = """
import hashlib, numpy as np, torch
from mmdata.native import library
from mmdata.types import Normalise, Patchify, Resize, Tile
from mmdata.views.pixels import apply

pixels = np.random.default_rng(0).integers(0, 256, (301, 407, 3), dtype=np.uint8)
video = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 3, 60, 84), dtype=np.uint8))
normalise = Normalise(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
patchify = Patchify(size=14, merge=2, temporal=2)
digest = hashlib.sha256()
for filter in ("bilinear", "bicubic"):
    for ops in ([normalise], [Tile(2, 3), normalise], [Tile(2, 3)], [patchify], [normalise, patchify]):
        digest.update(apply(pixels, [Resize(196, 252, filter), *ops]).numpy().tobytes())
        digest.update(apply(video, [Resize(112, 84, filter), *ops]).numpy().tobytes())
print(library.kernels() is not None, digest.hexdigest())
"""


def digest(**environment: str) -> tuple[str, str]:
    ran = subprocess.run(
        [sys.executable, "-c", DIGESTS], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    compiled, found = ran.stdout.split()
    return compiled, found


@pytest.mark.skipif(library.kernels() is None, reason="the kernels were not compiled")
def test_without_them_the_bits_are_the_same() -> None:
    found = {wanted: digest(MMDATA_NATIVE=wanted) for wanted in ("1", "avx2", "0")}
    assert found["1"][0] == "True"
    assert found == {"1": found["1"], "avx2": found["1"], "0": ("False", found["1"][1])}


def test_a_file_that_is_no_library_is_as_good_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_kernels.so").write_bytes(b"of another platform")
    library.kernels.cache_clear()
    monkeypatch.setattr(library, "compiled", lambda: tmp_path / "_kernels.so")
    assert library.kernels() is None
    library.kernels.cache_clear()


def test_a_library_of_another_version_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that was updated and not installed anew: what was compiled has other functions, or other bits."""
    header = (Path(library.__file__).parent / "native.h").read_text()
    assert f"#define VERSION {library.VERSION}\n" in header
    library.kernels.cache_clear()
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    assert library.kernels() is None
    library.kernels.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_a_compiler_at_hand_means_that_they_are_there() -> None:
    """Else an installation has lost them silently, and all that is fast about it."""
    assert os.environ.get("MMDATA_NATIVE") == "0" or library.kernels() is not None
    if (Path(sysconfig.get_path("include")) / "Python.h").exists():
        assert os.environ.get("MMDATA_NATIVE") == "0" or calls.calls() is not None
