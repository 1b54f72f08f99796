from __future__ import annotations

import subprocess
import sys

import pytest

_LISTS = "import sys, pyarrow; pyarrow.array([1, 2]); print('pandas' in sys.modules)"


def _run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    ("before", "loaded"), [("", "True"), ("from mmdata import startup; startup.spare_pandas(); ", "False")]
)
def test_pyarrow_loads_pandas_unless_it_is_spared(before: str, loaded: str) -> None:
    pytest.importorskip("pandas")
    assert _run(before + _LISTS) == loaded


def test_pandas_can_still_be_imported_afterwards() -> None:
    pytest.importorskip("pandas")
    code = "from mmdata import startup; startup.spare_pandas(); import pandas; print(pandas.Series([1, 2]).sum())"
    assert _run(code) == "3"


def test_importing_the_build_loads_no_display_and_no_store_drivers() -> None:
    heavy = "('rich', 'pandas', 'ftfy', 'pyarrow.dataset', 'pyarrow.acero', 'jinja2', 'torch')"
    assert _run(f"import sys, mmdata.build; print([name for name in {heavy} if name in sys.modules])") == "[]"
