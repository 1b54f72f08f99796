"""Two builds compared record by record, against their ledgers read row by row."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmdata import diff as module
from mmdata.diff import diff, main
from mmdata.forget import forget
from tests.building import build, folder_of_pictures, ledger, picture, write_spec


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A, and B of which one picture is new, one is gone, one has other pixels, and another filter is on."""
    place = tmp_path_factory.mktemp("diff")
    pictures = folder_of_pictures(place / "in", 24)
    build(write_spec(place / "a.yaml", {"kind": "folder", "path": "in"}, [{"kind": "probe"}], output={"path": "a"}))
    picture(24).save(pictures / "0024.jpg")
    picture(77).save(pictures / "0003.jpg")
    picture(5, (40, 120)).save(pictures / "0005.jpg")
    (pictures / "0007.jpg").write_bytes(b"<html>not here</html>")
    (pictures / "0000.jpg").unlink()
    steps = [{"kind": "probe"}, {"kind": "min_side", "pixels": 100}]
    build(write_spec(place / "b.yaml", {"kind": "folder", "path": "in"}, steps, output={"path": "b"}))
    return place / "a", place / "b"


def by_hand(a: Path, b: Path) -> tuple[set[str | None], set[str | None], Counter[tuple[str, str]], int]:
    """The twin: dictionaries by address."""
    one, other = ({row.uri: row for row in ledger(folder)} for folder in (a, b))
    both = one.keys() & other.keys()
    fates = Counter((one[uri].reason, other[uri].reason) for uri in both if one[uri].reason != other[uri].reason)
    content = sum(one[uri].state == other[uri].state == "ok" and one[uri].sha256 != other[uri].sha256 for uri in both)
    return one.keys() - both, other.keys() - both, fates, content


@pytest.mark.parametrize("at_once", [4_000_000, 5])
def test_what_differs_is_what_the_ledgers_say(
    builds: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    gone, added, fates, content = by_hand(*builds)
    found = diff(*builds, by="uri", output=tmp_path / "changes.parquet")
    assert (found.rows, found.kept) == ((24, 24), (24, 22))
    assert (found.gone, found.added, found.content) == (Counter({"ok": 1}), Counter({"ok": 1}), content)
    assert content == 1
    assert {("", b.partition("/")[2]): count for (_, b), count in found.changed.items()} == fates
    assert found.changed["ok", "filtered/min_side"] == 1
    rows = pq.read_table(tmp_path / "changes.parquet").to_pylist()
    assert {row["uri"] for row in rows if row["change"] == "gone"} == gone
    assert {row["uri"] for row in rows if row["change"] == "added"} == added
    assert Counter(row["change"] for row in rows) == {"gone": 1, "added": 1, "changed": 2, "content": 1}


def test_a_build_and_itself(builds: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for by in ("origin", "uri", "key"):
        assert main([str(builds[0]), str(builds[0]), "--by", by]) == 0
    capsys.readouterr()
    assert main([str(builds[0]), str(builds[1]), "--by", "uri", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["changed"][0]["a"] == "ok"


def test_what_was_forgotten_is_told(builds: tuple[Path, Path], tmp_path: Path) -> None:
    copy = shutil.copytree(builds[0], tmp_path / "copy")
    forget(copy, ["000000002", "000000004"], "opt_out")
    found = diff(builds[0], copy)
    assert found.changed == Counter({("ok", "removed/opt_out"): 2})
    assert found.kept == (24, 22)


def test_several_of_one_address_are_compared_in_turn() -> None:
    table = pa.table({"uri": ["a", "b", "a", "a", "b", "c"]})
    assert module._nth(table).tolist() == [0, 0, 1, 2, 1, 0]
    assert module._nth(table.slice(0, 0)).tolist() == []


def test_what_cannot_be_compared_is_said(
    builds: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(builds[0]), str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert main([str(builds[0]), str(builds[1]), "--output", str(tmp_path / "no" / "x.parquet")]) == 2
    assert "cannot write" in capsys.readouterr().err
