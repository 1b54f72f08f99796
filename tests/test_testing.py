"""The public names of the fault kit: there, described, shown on their page, and late."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mmdata.testing

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", mmdata.testing.__all__)
def test_a_name_is_there_described_and_on_the_page(name: str) -> None:
    found = getattr(mmdata.testing, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)
    assert name in PAGE


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(mmdata.testing.__file__).read_text(encoding="utf-8"))
    told = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told - {"annotations", "TYPE_CHECKING", "Any"} == set(mmdata.testing.__all__)
    assert set(mmdata.testing.__all__) <= set(dir(mmdata.testing))


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'curruption'"):
        mmdata.testing.curruption  # noqa: B018


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, mmdata.testing; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
