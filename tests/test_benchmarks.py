"""Benchmarks: each can be started and made small, and tables quote what files of results hold, and nothing else."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks import claims, profiles
from benchmarks.__main__ import GPU, SCRIPTS
from benchmarks.claims import Claim
from benchmarks.profiles import PROFILES, Profile, kept, page, run, shares, stacks

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*SCRIPTS, *GPU])
def test_each_says_what_it_does_and_can_be_made_small(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [f"benchmarks/{name}.py", "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in told
    assert "--quick" in told
    assert "--json" in told


def test_every_script_is_run_or_needs_a_gpu() -> None:
    scripts = {path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_")}
    assert scripts - {"peers", "claims", "profiles"} == {*SCRIPTS, *GPU}


def claim(**more: object) -> Claim:
    given: dict[str, object] = {"what": "work", "ours": "a", "beside": "b", "figure": (2.0, 1.5, 3.0), "rounds": 5}
    return Claim(**(given | more))  # type: ignore[arg-type]


def test_a_claim_is_met_missed_lost_or_missing() -> None:
    assert claim().verdict == ""
    assert claim(goal=2.0).verdict == "met"
    assert claim(goal=2.1).verdict == "**not met**"
    assert claim(goal=2.0, at_most=True).verdict == "met"
    assert claim(figure=(0.9, 0.8, 1.0)).verdict == "**we lose**"
    assert claim(figure=(0.9, 0.8, 1.0), goal=1.0).verdict == "**not met**, **we lose**"
    assert claim(figure=(0.9, 0.8, 1.0), floor=True).verdict == ""
    assert claim(figure=None, goal=1.0, missing="not installed").verdict == "missing: not installed"
    assert claim(figure=None, goal=1.0).met is None


def test_a_ratio_is_of_rounds_and_over_one_where_ours_does_better() -> None:
    found = {
        "a": [{"cpu": 1.0, "rate": 8.0}, {"cpu": 2.0, "rate": 4.0}, {"cpu": 4.0, "rate": 2.0}],
        "b": [{"cpu": 3.0, "rate": 4.0}, {"cpu": 4.0, "rate": 2.0}, {"cpu": 20.0, "rate": 1.0}],
        "c": [{"cpu": 2.0, "rate": 4.0}, {"cpu": 2.0, "rate": 2.0}, {"cpu": 3.0, "rate": 1.0}],
    }
    assert claims.beside("work", found, "a", "b", by="cpu").figure == (3.0, 2.0, 5.0)
    assert claims.beside("work", found, "a", "b", by="rate").figure == (2.0, 2.0, 2.0)
    best = claims.best_of("work", found, "a", ["b", "c", "absent"], by="cpu")
    assert (best.beside, best.figure) == ("c, the fastest of 2", (1.0, 0.75, 2.0))
    noisy = claims.beside("work", {"a": [{"ms": 1.0}], "b": [{"ms": -0.1}]}, "a", "b", by="ms")
    assert noisy.verdict == "missing: ms is not above 0 in each round: noise is larger"
    absent = claims.beside("work", found, "a", "d", by="cpu", missing={"d": "no wheel"})
    assert absent.verdict == "missing: no wheel"
    assert claims.best_of("work", found, "a", ["d"], by="cpu").verdict == "missing: no peer is here"


def test_the_table_of_a_file_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--quick", "--json", str(tmp_path / "x.json"), "--count", "3"])
    made = [
        claim(goal=1.5, headline=True),
        claim(what="other | work", figure=(0.5, 0.4, 0.6), goal=1.0, headline=True),
        claim(what="third", figure=None, missing="not installed"),
    ]
    path = claims.write("x", made, missing={"c": "no wheel"}, peers={"b": "1.2"}, threads=2, to=tmp_path / "x.json")
    assert json.loads(path.read_bytes())["command"] == "python -m benchmarks.x --quick --count 3"
    found = claims.results(tmp_path)
    assert found[0]["claims"] == made
    table = claims.table(found)
    assert "3 claims, 1 of 2 goals met, 1 lost to a peer, 1 without a figure." in table
    assert "| work | a | b | 2.00x (1.50-3.00) | 5 | >= 1.50 | met |" in table
    assert "| x | other / work | a | b | 0.500x (0.400-0.600) | 5 | >= 1.00 | **not met**, **we lose** |" in table
    assert "| third | a | b | - | 5 |  | missing: not installed |" in table
    assert "`python -m benchmarks.x --quick --count 3`" in table
    assert "Peers: b 1.2. Missing: c (no wheel)." in table
    quoted = claims.headlines(found)
    assert "| work: a | b | 2.00x (1.50-3.00) | >= 1.50 | met | `python -m benchmarks.x --quick --count 3`" in quoted
    assert "third" not in quoted


def test_a_file_without_claims_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"rounds": {}}')
    with pytest.raises(ValueError, match="no claims in it"):
        claims.results(tmp_path)
    with pytest.raises(ValueError, match="no <!--"):
        claims.between("a README without marks", "figures")


def test_the_readmes_quote_the_results_and_nothing_else() -> None:
    found = claims.results()
    assert claims.TABLE.read_text() == claims.table(found), "python -m benchmarks --table"
    readme = claims.README.read_text()
    assert readme == claims.between(readme, claims.headlines(found)), "python -m benchmarks --table"
    section = readme.partition("\n## Measured\n")[2].partition("\n## ")[0]
    outside = section.partition(claims.BEGIN)[0] + section.partition(claims.END)[2]
    assert not re.search(r"\d", re.sub(r"`[^`]*`", "", outside)), "a figure that no file of results holds"
    assert {each["name"] for each in found} <= {*SCRIPTS, *GPU}


RAW = """\
process 1:"python -m benchmarks.x";process 2:"python y.py ours";main (y.py:1);read (mmdata/a.py:3);crc (c.so) 6
process 1:"python -m benchmarks.x";process 2:"python y.py ours";main (y.py:1);read (mmdata/a.py:9);0x7ff0 (libc.so.6) 2
process 1:"python -m benchmarks.x";process 3:"python y.py theirs";main (y.py:1);read (peer/b.py:3) 9
process 1:"python -m benchmarks.x";thread (0x12);open <a> (mmdata/c.py:3);read (mmdata/a.py:9) 2
"""


def test_a_profile_is_of_what_it_names() -> None:
    found = stacks(RAW)
    assert [each.process for each in found] == ["python y.py ours"] * 2 + [
        "python y.py theirs",
        "python -m benchmarks.x",
    ]
    ours = kept(found, Profile(benchmark="x", what="reading"))
    assert shares(ours) == {
        "own": [("crc (c.so)", 0.6), ("? (libc.so.6)", 0.2), ("read (mmdata/a.py)", 0.2)],
        "ours": [("read (mmdata/a.py)", 1.0)],
        "below": [("read (mmdata/a.py)", 1.0), ("open <a> (mmdata/c.py)", 0.2)],
    }
    assert len(kept(found, Profile(benchmark="x", what="", process="ours$"))) == 2
    assert len(kept(found, Profile(benchmark="x", what="", without="crc|peer"))) == 2
    assert len(kept(found, Profile(benchmark="x", what="", within="peer/"))) == 1
    with pytest.raises(ValueError, match="not a line of py-spy's raw format: py-spy says"):
        stacks("py-spy says no")


def test_the_page_of_profiles_shows_what_was_measured() -> None:
    about = {"name": "x", "what": "reading", "measured": "2026-01-02", "command": "c", "profiled": "p", "samples": 1234}
    told = page([{**about, **shares(kept(stacks(RAW), Profile(benchmark="x", what="")))}])
    assert "## x: reading" in told
    assert "`c` looks at `p`, 2026-01-02: 1,234 samples." in told
    assert "| read (mmdata/a.py) | 100.0% | read (mmdata/a.py) | 100.0% | crc (c.so) | 60.0% |" in told
    assert "|  |  | open \\<a> (mmdata/c.py) | 20.0% | ? (libc.so.6) | 20.0% |" in told


def test_profiles_are_of_benchmarks_and_their_page_is_written_of_them() -> None:
    assert {each.benchmark for each in PROFILES.values()} <= set(SCRIPTS)
    stored = sorted(profiles.FOLDER.glob("*.json"))
    assert {path.stem for path in stored} <= set(PROFILES)
    assert profiles.PAGE.read_text() == page(json.loads(path.read_bytes()) for path in stored)
    assert not re.search(r"/(home|tmp|work|root)/", profiles.PAGE.read_text() + "".join(p.read_text() for p in stored))


def test_a_profile_without_samples_is_refused(tmp_path: Path) -> None:
    """A real run of py-spy, over a program that does nothing of ours."""
    nothing = Profile(benchmark="peers", what="", arguments=("--help",), within="no such function", native=False)
    with pytest.raises(RuntimeError, match=r"^none: (none of \d+ samples is within 'no such function'|py-spy wrote)"):
        run("none", nothing, tmp_path)
    assert not list(tmp_path.iterdir())
