"""The embedded example: the same bytes from the same arguments, and a web that does what its expectations say."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mmdata.ledger import counts
from mmdata.testing import faults, making, photos
from mmdata.testing.example import SLOW_KINDS, SPEC, Example, free_ports, make_example
from mmdata.testing.making import KINDS, METADATA

RECORDS = 420


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    return make_example(tmp_path_factory.mktemp("example") / "web", records=RECORDS)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_arguments_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "variants", photos.variants)  # made anew each time, which tests/conftest.py does not
    ports = free_ports(len(faults.ORIGINS))
    for name in ("a", "b"):
        make_example(tmp_path / name, records=60, seed=3, ports=ports)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    other = make_example(tmp_path / "c", records=60, seed=4, ports=ports)
    ours, theirs = files(tmp_path / "a"), files(other.folder)
    assert ours["metadata/part-0.parquet"] != theirs["metadata/part-0.parquet"]
    assert not list(tmp_path.glob("*.making"))


def test_it_is_opened_again_and_never_written_over(tmp_path: Path) -> None:
    first = make_example(tmp_path / "web", records=20, damage=False)
    before = files(first.folder)
    assert make_example(tmp_path / "web", records=20, damage=False) == first
    assert files(first.folder) == before
    with pytest.raises(RuntimeError, match="another example"):
        make_example(tmp_path / "web", records=21, damage=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    with pytest.raises(RuntimeError, match="not empty and holds no example"):
        make_example(tmp_path / "full", records=20)
    with pytest.raises(ValueError, match="no kind 'nonsense'"):
        make_example(tmp_path / "x", records=20, leave_out=["nonsense"])
    assert files(tmp_path / "full") == files(tmp_path / "full") != {}


def test_tables(example: Example) -> None:
    parts = sorted(example.metadata.glob("*.parquet"))
    assert len(parts) >= 2
    tables = [pq.ParquetFile(part) for part in parts]
    assert all(table.schema_arrow.equals(METADATA) for table in tables)
    assert any(table.num_row_groups > 1 for table in tables)
    rows = [row for table in tables for row in table.read().to_pylist()]
    assert len(rows) == RECORDS
    assert [row["URL"] for row in rows] == [row["url"] for row in example.expected()]
    assert len({row["hash"] for row in rows}) == RECORDS


def test_expectations_sum_to_the_records(example: Example) -> None:
    expected = example.expected()
    assert [row["row"] for row in expected] == list(range(RECORDS))
    for prefix in ("", "healed_"):
        by_state = counts(row[f"{prefix}state"] for row in expected)
        assert sum(by_state.values()) == RECORDS
        assert all((row[f"{prefix}state"] == "ok") == (row[f"{prefix}reason"] == "") for row in expected)
        assert all(by_state[state] for state in by_state if state != "failed_transient" or not prefix)
    assert not any(row["healed_state"] == "failed_transient" for row in expected)
    kinds = Counter(row["kind"] for row in expected)
    assert len(kinds) - 1 == len(KINDS) >= 80
    assert kinds["clean"] / RECORDS == pytest.approx(0.75, abs=0.01)
    assert len({row["reason"] for row in expected}) >= 25


def test_a_big_example_has_each_kind_several_times(tmp_path: Path) -> None:
    from mmdata.testing.making import _deal

    kinds = Counter(kind.kind for kind in _deal(1200, KINDS, 0) if kind is not None)
    assert set(kinds) == {kind.kind for kind in KINDS}
    assert min(kinds.values()) >= 3
    quick = [kind for kind in KINDS if kind.kind not in SLOW_KINDS]
    assert 0 < len(KINDS) - len(quick) <= 4


def test_copies_repeat_an_earlier_kept_row(example: Example) -> None:
    expected = example.expected()
    copies = [row for row in expected if row["state"] == "duplicate"]
    assert {row["reason"] for row in copies} == {"exact_dup", "near_dup"}
    for row in copies:
        assert row["of_row"] < row["row"]
        assert expected[row["of_row"]]["kind"] == "clean"
    assert all(row["of_row"] is None for row in expected if row["state"] != "duplicate")


def test_the_web_answers_as_planned(example: Example) -> None:
    """Statuses and faults as a plain client sees them; what a build makes of them is the build's test."""
    quick = {"http_403": 403, "http_404": 404, "http_410": 410, "http_451": 451, "http_500": 500, "http_503": 503}
    quick |= {"http_429": 429, "redirected": 200, "noai": 200, "clean": 200, "robots_path": 200, "chunked": 200}
    expected = [row for row in example.expected() if row["kind"] in quick]
    assert {row["kind"] for row in expected} == set(quick)
    with example.serve() as server:
        assert dict(server.urls) == {name: url for name, url in example.urls.items() if name != "down"}
        for row in expected:
            assert status(row["url"]) == quick[row["kind"]], row
        late = next(row["url"] for row in example.expected() if row["kind"] == "late_500")
        assert [status(late) for _ in range(4)] == [500, 500, 200, 200]
        assert status(example.urls["broken"] + "/robots.txt") == 503
        for kind in ("connect_error", "connect_timeout", "no_answer"):
            url = next(row["url"] for row in example.expected() if row["kind"] == kind)
            with pytest.raises(OSError):
                urllib.request.urlopen(url, timeout=0.3)
        assert server.errors() == ""
    with example.serve(healed=True) as server:
        for row in example.expected():
            if row["state"] == "failed_transient":
                assert status(row["url"]) == 200, row
        assert status(example.urls["broken"] + "/robots.txt") == 404
        assert server.errors() == ""


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_taken_port_is_said(example: Example) -> None:
    port = int(example.urls["mirror"].rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)), pytest.raises(RuntimeError, match=f"127.0.0.1:{port}"):
        example.serve().start()


def test_the_spec_names_what_there_is(example: Example) -> None:
    text = example.spec.read_text()
    for line in ("path: metadata", "allow_private: true", "kind: near_dup"):
        assert line in text
    assert {step["kind"] for step in SPEC["steps"]} >= {"probe", "min_side", "max_pixels", "aspect", "exact_dedup"}


def test_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "web"
    script = (
        "import sys, urllib.request, pathlib, json;"
        "url = json.loads(pathlib.Path(sys.argv[1], 'example.json').read_text())['urls']['main'];"
        "urllib.request.urlopen(url + '/images/000000.jpg').read(); sys.exit(7)"
    )
    command = [sys.executable, "-m", "mmdata.testing.example", str(folder), "--records", "20"]
    done = subprocess.run(
        [*command, "--log", str(tmp_path / "log"), "--run", sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 7, done.stderr
    assert "20 records" in done.stdout
    assert '"/images/000000.jpg"' in (tmp_path / "log").read_text()
    done = subprocess.run([*command[:-1], "21"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "another example" in done.stderr
