"""Every shipped pipeline, run tiny: the build on the embedded example, then the training on what was built; those of
other inputs in `pipelines/test_NAME.py`."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from mmdata import specfile
from mmdata.shards import manifest as manifests
from mmdata.shards.dataset import open_dataset
from mmdata.testing.demo import OVERRIDES
from mmdata.testing.example import SLOW_KINDS, Example, make_example
from mmdata.verify import verify_dataset
from mmtrain import sft
from mmtrain.spec import TrainSpec
from tests.building import ledger

RECORDS = 40
TRAINED = {"recipe_tiny.yaml": TrainSpec, "sft_tiny.yaml": TrainSpec}
BUILT = {"laion_subset.yaml"}
ELSEWHERE = {path.stem.removeprefix("test_") + ".yaml" for path in Path(__file__).parent.glob("pipelines/test_*.py")}


def run(module: str, *arguments: str, cwd: Path) -> str:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def sets(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


def test_every_shipped_pipeline_is_run() -> None:
    assert {path.name for path in specfile.pipelines().glob("*.yaml")} == BUILT | TRAINED.keys() | ELSEWHERE


def test_every_pipeline_says_how_it_is_run() -> None:
    """The command, and what to expect of it, at its top."""
    for path in specfile.pipelines().glob("*.yaml"):
        top = path.read_text().partition("\n\n")[0] + path.read_text().partition("\n\n")[2][:600]
        command = "mmtrain.sft --config" if path.name in TRAINED else f"mmdata.build --spec {path.name}"
        assert command in top, path.name
        if path.name not in TRAINED:
            assert "Expected yield:" in top
            assert "Expected time:" in top


@pytest.mark.parametrize("name", sorted(BUILT | TRAINED.keys() | ELSEWHERE))
def test_a_pipeline_loads(name: str) -> None:
    """Input paths are not checked: they are what `make demo` writes."""
    if name in TRAINED:
        spec, file = specfile.load(TRAINED[name], name, check_paths=False)
        assert spec.steps >= 1
    else:
        build, file = specfile.load_build(name, check_paths=False)
        assert build.steps[0].kind == "probe"
    assert file.name == name


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder = tmp_path_factory.mktemp("pipelines") / "example"
    return make_example(folder, records=RECORDS, leave_out=SLOW_KINDS)


@pytest.fixture(scope="module")
def built(example: Example) -> Path:
    dataset = example.folder.parent / "dataset"
    overrides = sets(f"source.path={example.metadata}", *OVERRIDES, "engine.workers=1")
    arguments = ["--spec", "laion_subset.yaml", "--quiet", *overrides, "--output", str(dataset)]
    plan = run("mmdata.build", *arguments, "--dry-run", cwd=example.folder)
    assert f"laion: {RECORDS} input rows" in plan
    assert not dataset.exists()
    with example.serve(healed=True):
        said = run("mmdata.build", *arguments, cwd=example.folder)
    assert f"{RECORDS} input rows = " in said
    return dataset


def test_laion_subset_ends_every_record_as_planted(example: Example, built: Path) -> None:
    rows = ledger(built)
    planted = [(row["row"], row["healed_state"], row["healed_reason"]) for row in example.expected()]
    assert [(row.row, row.state, row.reason) for row in rows] == planted
    manifest = manifests.read(built)
    assert sum(manifest.counts.values()) == manifest.input_rows == RECORDS
    assert Counter(row.state for row in rows) == {state: count for state, count in manifest.counts.items() if count}
    assert manifest.samples == len(open_dataset(built)) >= RECORDS // 2
    assert verify_dataset(built).problems == []
    assert (built / "report.html").stat().st_size > 10_000


def test_sft_tiny_trains_on_it(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    overrides = sets(
        f"data.dataset={built}",
        f"output={output}",
        "steps=3",
        "global_batch=2",
        "checkpoint.every=2",
        "tokenizer.vocab_size=400",
    )
    assert sft.main(["--config", "sft_tiny.yaml", *overrides, "--dry-run"]) == 0
    assert capsys.readouterr().out.strip()
    assert not output.exists()
    assert sft.main(["--config", "sft_tiny.yaml", *overrides]) == 0
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(math.isfinite(line["loss"]) and line["packs"] == 2 and line["targets"] > 0 for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert (output / "step-00000003").exists() or list(output.rglob("step-00000003*"))


def test_recipe_tiny_trains_its_stages_on_it(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "recipe"
    shorter = [f"stages.{stage}.steps=2" for stage in range(3)]
    overrides = sets(
        f"data.dataset={built}", f"output={output}", "global_batch=2", "tokenizer.vocab_size=400", *shorter
    )
    assert sft.main(["--config", "recipe_tiny.yaml", *overrides]) == 0
    assert capsys.readouterr().out.count("after  ") == 2
    for stage in ("01-align", "02-multitask", "03-instruct"):
        lines = [json.loads(line) for line in (output / stage / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1]
        assert all(math.isfinite(line["loss"]) for line in lines)
