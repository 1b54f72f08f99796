"""Specs to begin with: each loads, says of every key what the code says, and does what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmdata import init, registry, settings, specfile
from mmdata.build import main as build
from mmdata.errors import SpecError
from mmdata.stream.spec import StreamSpec
from mmtrain.spec import TrainSpec
from tests.building import folder_of_pictures

PIPELINES = sorted(file.stem for file in specfile.pipelines().glob("*.yaml"))
SOURCES = registry._builtin("source")
NAMES = [*PIPELINES, *SOURCES, "stream", "train"]
SETTING = re.compile(r"^( *)#(?=[a-z_0-9]+:)", re.MULTILINE)


def load(text: str, folder: Path) -> Any:
    file = folder / "spec.yaml"
    file.write_text(text, encoding="utf-8")
    top = set(re.findall(r"^(\w+):", text, re.MULTILINE))
    if "source" in top:
        return specfile.load_build(str(file), check_paths=False)[0]
    return specfile.load(TrainSpec if "data" in top else StreamSpec, str(file), check_paths=False)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_spec_loads_and_what_is_commented_out_are_the_defaults(name: str, tmp_path: Path) -> None:
    text = init.spec_of(name, tmp_path)
    spec = load(text, tmp_path)
    live = SETTING.sub(r"\1", text)
    assert live.count("\n") == text.count("\n")
    assert specfile.bound(load(live, tmp_path)) == specfile.bound(spec)
    for field, info in type(spec).model_fields.items():
        assert re.search(rf"^#?{field}:", text, re.MULTILINE), f"{field} is not there"
        said = " ".join((info.description or "").split())[:40]
        assert said in re.sub(r"\s*\n# *", " ", text), f"what {field} means is not there"
    assert max(map(len, text.split("\n"))) < 400


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_is_what_is_shipped_but_for_where_its_files_lie(name: str, tmp_path: Path) -> None:
    here = load(init.spec_of(name, tmp_path), tmp_path)
    shipped = specfile.pipelines() / f"{name}.yaml"
    there = load(shipped.read_text(encoding="utf-8"), tmp_path)
    differ = [line.split(":")[0] for line in settings.difference(specfile.bound(there), specfile.bound(here))]
    allowed = re.compile(r".*(path|dataset|output|images|annotations|questions|answers|instances)(\[\d+\])?$")
    assert [line for line in differ if not allowed.fullmatch(line)] == []


def test_paths_lead_to_what_is_there(tmp_path: Path) -> None:
    text = init.spec_of("sft_tiny", tmp_path)
    assert "../demo" not in text
    assert re.search(r"^output: run$", text, re.MULTILINE)


def test_a_first_spec_builds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder_of_pictures(tmp_path / "images", 2)
    file = tmp_path / "my.yaml"
    assert init.main(["folder", "--output", str(file)]) == 0
    assert f"python -m mmdata.build --spec {file} --dry-run" in capsys.readouterr().out
    assert build(["--spec", str(file), "--dry-run"]) == 0
    assert "folder: 2 input rows" in capsys.readouterr().out


def test_nothing_is_overwritten_and_names_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("mine")
    assert init.main(["folder", "--output", str(file)]) == 2
    assert init.main(["folder", "--output", str(tmp_path / "none" / "my.yaml")]) == 1
    assert init.main(["webdatset"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "is there already; give the spec another name" in said[0]
    assert "No such file or directory" in said[1]
    assert "did you mean 'webdataset'?" in said[2]
    assert file.read_text() == "mine"
    with pytest.raises(SpecError, match="nothing is called") as raised:
        init.spec_of("min_side")
    assert str(raised.value).count(" mixture,") == 1  # a kind of source and a pipeline


def test_the_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main(["--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    registered = set(registry.kinds("source")) - set(SOURCES)  # by other tests of this process
    assert {line.split()[0] for line in said if line.startswith("  ")} == {*NAMES, *registered}
    assert init.main(["--steps"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == registry.kinds("step")
    for line in (*said, *told):
        assert len(line) < 125, line
        assert not line.startswith("  ") or len(line.split()) > 2, f"{line!r} says nothing"
