"""Tests of the one function of `crc32c` that is used, and of how it is loaded."""

from __future__ import annotations

import subprocess
import sys

import crc32c as package

from mmdata.checksum import crc32c


def test_it_is_the_package_s_own() -> None:
    assert crc32c is package.crc32c
    assert crc32c(b"123456789") == 0xE3069283  # the check value of RFC 3720
    assert crc32c(memoryview(b"6789"), crc32c(b"12345")) == 0xE3069283


def test_it_comes_without_the_package_and_the_package_can_come_after_it() -> None:
    code = (
        "import sys; from mmdata.checksum import crc32c\n"
        "assert not {'crc32c', 'importlib.metadata'} & set(sys.modules)\n"
        "import crc32c as package; assert package.crc32c is crc32c and package.__version__"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_package_of_another_make_is_imported_as_it_is() -> None:
    code = (
        "import sys, importlib.machinery as machinery; real = machinery.PathFinder.find_spec\n"
        "def none(name, *more): return None if name == 'crc32c._crc32c' else real(name, *more)\n"
        "machinery.PathFinder.find_spec = none\n"
        "import mmdata.checksum as checksum; assert checksum._module() is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "No module named 'crc32c._crc32c'" in done.stderr  # the package itself was asked
