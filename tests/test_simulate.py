"""The command that simulates: a table, a page with curves, figures that come again, mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mmdata import simulate
from mmdata.simulation.cluster import Cluster
from mmdata.simulation.findings import findings
from mmdata.stream.ahead import share

SMALL = ["--samples", "1e6", "--ranks", "16", "--block-samples", "2000", "--max-length", "4096"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulate")
    assert simulate.main([*SMALL, "--html", str(folder / "page.html"), "--svg", str(folder / "svg")]) == 0
    return folder


def test_the_page_holds_figures_and_curves(written: Path) -> None:
    page = (written / "page.html").read_text()
    assert page.count("<svg ") == 8
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "<script" not in page
    for name in ("kept as training at that", "bytes over wanted", "most over mean, vision"):
        assert name in page
    files = sorted((written / "svg").iterdir())
    assert [file.name for file in files] == sorted(
        f"scale_{name}.svg"
        for name in ("index", "planning", "balance", "amplification", "requests", "quality", "cache", "goodput")
    )
    for file in files:
        ElementTree.fromstring(file.read_text())


def test_figures_come_again_but_for_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    made = []
    for _ in range(2):
        assert simulate.main([*SMALL, "--json"]) == 0
        made.append(json.loads(capsys.readouterr().out))
    executed = [[row for row in each["found"] if row["kind"] == "executed"] for each in made]
    assert executed[0] == executed[1]
    assert len(executed[0]) > 10
    assert made[0]["told"] == Cluster(samples=10**6, ranks=16, block_samples=2000, max_length=4096).model_dump()


def test_what_a_stream_says_is_taken_and_flags_come_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "stream.yaml"
    (tmp_path / "far").mkdir()
    spec.write_text("dataset: far\nshuffle: global\nblock_samples: 3000\nmax_length: 2048\n")
    told = ["--samples", "1000000", "--ranks", "8", "--block-samples", "1000", "--stream", str(spec)]
    assert simulate.main(told) == 0
    shown = capsys.readouterr().out
    assert "packs of 2,048 tokens a step, shuffle global of 1,000" in shown
    assert "the stream reads ranges" in shown


def test_more_ranks_read_alike_but_plan_more() -> None:
    """What grows with the number of ranks, and what does not."""
    small, large = (Cluster(samples=10**6, ranks=ranks, block_samples=2000) for ranks in (8, 64))
    found, _ = simulate.simulate(large, [8], [])
    a, b = ({row.name: row.value for row in findings(told, found)} for told in (small, large))
    assert b["CPU of a step, in every process"] > a["CPU of a step, in every process"]
    assert b["whole shards: bytes read over wanted"] > 4 * a["whole shards: bytes read over wanted"]
    assert b["by ranges: bytes read over wanted"] < 2
    assert b["kept as training at that"] < a["kept as training at that"]
    assert (share("block", 8), share("block", 64)) == (1.0, 0.125)
    assert "the stream reads whole shards: bytes over wanted" in a
    assert "the stream reads ranges: bytes over wanted" in b


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["--ranks", "12"], "ranks: 12 are no whole nodes of 8"),
        (["--samples", "10"], "samples: Input should be greater than or equal to 1000"),
        (["--samples", "2000", "--block-samples", "5000"], "block_samples: 5000 are more than samples: 2000"),
        (["--stream", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], told: list[str], message: str) -> None:
    assert simulate.main(told) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("mmdata.simulate: ")
