"""The checked-in schemas: what the code generates, what pipelines and files satisfy, and what they refuse."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from mmdata import schemas
from mmdata.shards import manifest as manifests
from mmdata.shards.index import Index
from tests.dataset_fixture import write_dataset

ROOT = Path(__file__).parents[1]
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
NAMES = sorted(path.name.removesuffix(".schema.json") for path in (ROOT / "schemas").glob("*.schema.json"))


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((ROOT / "schemas" / f"{name}.schema.json").read_text(encoding="utf-8"))
    return loaded


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schema(name))


def pipeline_schema(path: Path) -> Path:
    """The schema that the editor's comment on the first line of a pipeline names."""
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", path.read_text(encoding="utf-8").split("\n")[0])
    assert found, f"{path.name}: the first line is not the editor's schema comment"
    return (path.parent / found[1]).resolve()


def pipeline(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_all_schemas_are_there() -> None:
    assert NAMES == ["build", "contrastive", "index", "manifest", "sample", "state", "stream", "train"]


@pytest.mark.soak  # `make lint` does the same
def test_schemas_are_what_the_code_generates() -> None:
    """In a process of its own: other tests register kinds of their own."""
    check = [sys.executable, "-m", "mmdata.schemas", "--check", str(ROOT / "schemas")]
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))


def test_check_names_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert schemas.main(["--write", str(tmp_path)]) == 0
    assert schemas.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "build.schema.json").write_text("{}")
    (tmp_path / "index.schema.json").unlink()
    (tmp_path / "invented.schema.json").write_text("{}")
    assert schemas.main(["--check", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "build.schema.json: not what the code generates" in message
    assert "index.schema.json: missing" in message
    assert "invented.schema.json: no such schema" in message
    assert "--write" in message


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_pipeline_satisfies_the_schema_that_it_names(path: Path) -> None:
    named = pipeline_schema(path)
    assert named.is_file(), f"{path.name} names {named}, which is not there"
    assert named.parent == ROOT / "schemas"
    value = pipeline(path)
    found = validator(named.name.removesuffix(".schema.json"))
    assert [f"{error.json_path}: {error.message}" for error in found.iter_errors(value)] == []
    assert list(found.iter_errors({**value, "no_such_key": 1}))


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_a_pipeline_opens_with_its_command_yield_and_time(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    opening = "\n".join(lines[: next(at for at, line in enumerate(lines) if line and not line.startswith("#"))])
    assert re.search(rf"python -m mm(data|train)\.\w+ --(spec|config) \S*{re.escape(path.name)}", opening), opening
    assert re.search(r"\b(yield|expect)\b", opening, re.IGNORECASE), opening
    assert re.search(r"\b(time|minutes?|seconds?)\b", opening, re.IGNORECASE), opening


# Each entry is a path into pipelines/laion_subset.yaml and what is written there instead.
@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("source", "no_such_key"), 1),
        (("source", "columns"), {"urls": "URL"}),
        (("fetch", "retry"), 3),
        (("fetch", "retries"), -1),
        (("steps", 0, "verfy"), "full"),
        (("steps", 0, "kind"), "prob"),
        (("output", "unit_rows"), 0),
        (("output", "unit_rows"), "many"),
    ],
)
def test_what_the_code_refuses_the_schema_refuses(place: tuple[str | int, ...], value: Any) -> None:
    spec = pipeline(ROOT / "pipelines" / "laion_subset.yaml")
    assert validator("build").is_valid(spec)
    wrong = copy.deepcopy(spec)
    target = wrong
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = value
    assert not validator("build").is_valid(wrong)


def test_every_registered_kind_is_in_the_build_schema() -> None:
    text = json.dumps(schema("build"))
    for package in ("sources", "steps"):
        for file in (ROOT / "mmdata" / package).glob("[!_]*.py"):
            assert f'"const": "{file.stem}"' in text, f"{package}/{file.name} is missing in build.schema.json"


def test_index_and_manifest_of_a_dataset_satisfy_their_schemas(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "dataset", samples=6)
    rows = [
        {**row, "signatures": {name: data.hex() for name, data in row["signatures"] or ()}}
        for file in sorted((folder / "index").glob("*.arrow"))
        for row in table_rows(file)
    ]
    assert len(rows) == 6
    index = validator("index")
    for row in rows:
        index.validate(row)
        assert not index.is_valid({**row, "more": 1})
        assert not index.is_valid({name: value for name, value in row.items() if name != "key"})
        assert not index.is_valid({**row, "crc32c": -1})
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    validator("manifest").validate(manifest)
    assert not validator("manifest").is_valid({**manifest, "more": 1})
    assert manifests.read(folder).samples == 6


def table_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of an index file as Arrow has them."""
    import pyarrow as pa

    rows: list[dict[str, Any]] = pa.ipc.open_file(pa.memory_map(str(file))).read_all().to_pylist()
    assert [row["key"] for row in rows] == Index(file).keys()
    return rows
