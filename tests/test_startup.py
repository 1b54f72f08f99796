from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmdata import startup
from tests.dataset_fixture import write_dataset

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


def test_pyarrow_without_its_drivers_reads_and_writes_files(tmp_path: Path) -> None:
    """And cloudpickle, where there is one, can still be imported afterwards."""
    code = (
        "import sys; from mmdata import startup; startup.spare_drivers(); import pyarrow as pa, pyarrow.parquet as pq;"
        f"pq.write_table(pa.table({{'x': [1, 2]}}), {str(tmp_path / 'a.parquet')!r});"
        f"assert pq.read_table({str(tmp_path / 'a.parquet')!r}).to_pydict() == {{'x': [1, 2]}};"
        "print([name for name in ('pyarrow._s3fs', 'cloudpickle', 'ssl') if name in sys.modules]);"
        "import ssl; assert ssl.SSLContext;"
        "sys.meta_path[0].__class__.__name__ == '_Hidden' and print('it still hides')"
    )
    assert _run(code) == "[]"


def test_who_asks_for_more_of_ssl_than_where_certificates_lie_gets_it() -> None:
    code = (
        "import sys; from mmdata import startup; sys.modules['ssl'] = startup._NoCertificates('ssl'); import ssl;"
        "print(ssl.get_default_verify_paths().cafile, ssl.SSLContext.__name__, ssl is sys.modules['ssl'])"
    )
    assert _run(code) == "None SSLContext False"


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is asked on Linux alone")
@pytest.mark.parametrize(
    ("before", "fresh"), [("", True), ("from mmdata import startup; startup.keep_memory();", False)]
)
def test_memory_that_is_kept_is_not_asked_for_again(before: str, fresh: bool) -> None:
    code = (
        f"import resource; {before} held = [b'x' * (24 << 20) for _ in range(2)]; del held;"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt;"
        "earlier = faults(); held = [b'x' * (24 << 20) for _ in range(2)]; print(faults() - earlier)"
    )
    assert (int(_run(code)) > 6000) == fresh  # of 12,288 pages


def test_importing_the_build_loads_no_display_and_no_store_drivers() -> None:
    heavy = "('rich', 'pandas', 'ftfy', 'pyarrow.dataset', 'pyarrow.acero', 'jinja2', 'torch')"
    assert _run(f"import sys, mmdata.build; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_numpy_starts_no_thread_where_they_are_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    code = "from mmdata import startup; startup.spare_threads(); import numpy, os; print(os.listdir('/proc/self/task'))"
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("no /proc")
    assert _run(code).count(",") == 0


def test_who_has_said_how_many_threads_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    startup.spare_threads()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


def test_the_options_of_the_index_load_nothing_and_its_help_is_as_argparse_formats_it(tmp_path: Path) -> None:
    parse = "from mmdata import startup, index; startup.spare_pandas(); index.main(['none', '--output', 'none'])"
    assert _run(f"import sys; {parse}; print([n for n in ('shutil', 'dateutil') if n in sys.modules])") == "[]"
    told = "import sys, argparse; from mmdata import startup, index; {}; index.main(['--help'])"
    theirs = told.format("startup.formatter = argparse.RawDescriptionHelpFormatter")
    for columns in ("", "50", "0", "200"):
        ours, expected = (
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "COLUMNS": columns}
            ).stdout
            for code in (told.format("pass"), theirs)
        )
        assert "usage" in ours
        assert ours == expected


def test_importing_the_index_loads_no_models_and_no_readers_of_tables() -> None:
    models = "'pydantic', 'importlib.metadata', 'mmdata.ops', 'mmdata.plans'"
    tables = "'mmdata.shards.rows', 'mmdata.sources._tables', 'mmdata.sources._columns'"
    heavy = f"({models}, {tables}, 'mmdata.shards.sink', 'concurrent.futures', 'random', 'shutil')"
    assert _run(f"import sys, mmdata.index; print([name for name in {heavy} if name in sys.modules])") == "[]"


def test_the_first_sample_waits_for_no_import_and_no_model(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", samples=2)
    code = (
        "import sys; from mmdata import open_dataset; from pydantic import TypeAdapter; before = set(sys.modules);"
        "TypeAdapter.__init__ = lambda *_, **__: print('a model is made');"
        f"open_dataset({str(folder)!r}).raw(0); print(sorted(set(sys.modules) - before))"
    )
    assert _run(code) == "[]"


def test_making_an_index_loads_no_functions_of_arrow() -> None:
    """They are wrapped one by one when they are imported, which takes longer than a thousand rows do."""
    made = (
        "from mmdata.shards.index_columns import IndexColumns; from mmdata.shards.index import Part\n"
        "columns = IndexColumns('a.tar', sums=False)\n"
        "shape = columns.shape(Part('txt', 'text', 0, 0, 0, 'caption', True))\n"
        "columns.append('a', 0, 0, [(shape, 512, 5, 0)], ()); columns.to_bytes()\n"
    )
    assert _run(f"import sys\n{made}print('pyarrow.compute' in sys.modules)") == "False"
