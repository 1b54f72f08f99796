"""The README: its commands parse with the specs that they name, its step works, its files are there.

That its Python runs and its specs load is tested with the documents, in `test_docs.py`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mmdata import registry, specfile
from mmdata.types import Drop, Origin, Sample, Text
from mmtrain.spec import TrainSpec
from tests import markdown

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [block.text for block in markdown.blocks(README, language)]


def commands() -> list[list[str]]:
    return markdown.all_commands(README)


def test_the_readme_has_what_is_tested_here() -> None:
    assert len(commands()) >= 5
    assert blocks("python")
    assert blocks("yaml")
    for name in ("mmdata.build", "mmdata.verify", "mmtrain.sft"):
        assert any(words[0] == name for words in commands()), f"no example of python -m {name}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_parses(words: list[str]) -> None:
    arguments = markdown.parse(words)
    overrides = [re.sub(r"^((?:\w+\.)*path)=.*", r"\1=somewhere", line) for line in getattr(arguments, "set", [])]
    for name in (getattr(arguments, "spec", None), getattr(arguments, "config", None)):
        if name is None or not ((ROOT / name).is_file() or (ROOT / "pipelines" / name).is_file()):
            continue  # a file that the reader writes
        path = str(ROOT / name if (ROOT / name).is_file() else ROOT / "pipelines" / name)
        if words[0].startswith("mmdata"):
            specfile.load_build(path, overrides, check_paths=False)
        else:
            specfile.load(TrainSpec, path, overrides, check_paths=False)


def test_the_parser_of_a_command_refuses_what_is_wrong() -> None:
    with pytest.raises(SystemExit):
        markdown.parse(["mmdata.build", "--spec", "a.yaml", "--no-such-option"])


@pytest.mark.parametrize("text", [text for text in blocks("python") if '@register("step"' in text])
def test_the_step_of_the_readme_works_as_a_plugin(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    found = re.search(r'@register\("step", "(\w+)"\)', text)
    assert found
    spec = (
        f"plugins: [mine.py]\nsource: {{kind: folder, path: .}}\nsteps: [{{kind: {found[1]}}}]\noutput: {{path: out}}\n"
    )
    (tmp_path / "spec.yaml").write_text(spec, encoding="utf-8")
    try:
        step: Any = specfile.load_build(str(tmp_path / "spec.yaml"))[0].steps[0]
        sample = Sample(key="0", parts=(Text(text="a cat on a mat"),), origin=Origin(uri="a", row=0))
        assert isinstance(step.apply(sample, None), Sample | Drop)
    finally:
        registry._table.pop(("step", found[1]), None)


def test_named_files_are_there() -> None:
    prose = markdown.prose(README)
    generated = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().split("\n") if line.strip()}
    tops = {path.name for path in ROOT.iterdir()} - generated
    named = [code.rstrip("/") for code in re.findall(r"`([\w./-]+)`", prose)]
    paths = [code for code in named if "/" in code and code.partition("/")[0] in tops]
    paths += [
        code for code in named if re.fullmatch(r"[\w-]+\.(toml|md|ya?ml)|Makefile|LICENSE|constraints\.txt", code)
    ]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_two_commands_and_every_make_target() -> None:
    assert "make demo" in README
    assert "make test" in README
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    code = " \n".join([*blocks("bash"), *re.findall(r"`([^`\n]+)`", markdown.prose(README))])
    assert set(re.findall(r"^\s*make ([\w-]+)", code, re.MULTILINE)) <= targets


def test_shipped_specs_and_schemas_are_linked() -> None:
    assert "schemas/build.schema.json" in README
    assert "pipelines/" in README
    assert not re.search(r"!\[[^\]]*\]\(https?://", README), "no badges"
