"""The last words of a build: sums, an example of each reason, and what comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmdata.engine import summary as module
from mmdata.engine.summary import summary
from mmdata.shards import manifest as manifests
from tests.building import build, picture, write_spec


def made(folder: Path, lines: list[object]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("0", "1", "2"):
        picture(int(name)).save(folder / f"{name}.png")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "lines.json").write_text(json.dumps(lines))
    steps = [{"kind": "probe"}, {"kind": "exact_dedup", "texts": True}]
    spec = write_spec(folder / "spec.yaml", {"kind": "jsonl", "path": "lines.json"}, steps, output={"unit_rows": 3})
    build(spec, "--set", "engine.workers=1")
    return folder / "out"


def test_every_reason_comes_with_its_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"image": "0.png", "text": "x"}
    missing = [{"image": f"nowhere{n}.png", "text": "x"} for n in range(2)]
    others = [{"image": f"{n}.png", "text": "x"} for n in (1, 2)]
    bad = [{"id": 7, "image": "../0.png", "text": "x"}, "text"]
    out = made(tmp_path, [good, others[0], *missing, *bad, others[1], good, {"image": "cut.png", "text": "x"}])
    told = summary(out, manifests.read(out)).split("\n")
    assert told[0] == "9 input rows = 3 ok + 1 duplicate + 5 failed_permanent"
    assert told[1].startswith("  2 not_found: lines.json row 2: ")
    assert "nowhere0.png" in told[1]
    assert sorted(told[2:6])[:3] == [
        "  1 bad_record: lines.json row 5: a JSON str, not an object",
        "  1 exact_dup: lines.json row 7: same bytes (0.png) as 000000000",
        "  1 path_escape: lines.json row 4: id 7: image: '../0.png' leads out of source.root (by default the folder of "
        "source.path)",
    ]
    assert sorted(told[2:6])[3].endswith(" (cut.png)")
    assert told[6].startswith("3 samples in 2 shards, root digest ")
    assert told[7] == f"report: {out / 'report.html'}"
    assert told[8].startswith("next:   python -m mmtrain.sft ")
    monkeypatch.setattr(module, "REASONS", 1)
    assert summary(out, manifests.read(out)).split("\n")[2] == "  4 for other reasons"
    monkeypatch.setattr(module, "LEDGERS", 0)
    assert summary(out, manifests.read(out)).split("\n")[1] == "  2 not_found"


def test_nothing_that_was_kept_is_said(tmp_path: Path) -> None:
    out = made(tmp_path, [{"image": "nowhere.png", "text": "x"}])
    assert summary(out, manifests.read(out)).split("\n")[-1].startswith("next:   nothing was kept; ")
