"""The README: its commands parse, its specs load, its Python runs as far as it can, its files are there."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmdata import registry, specfile
from mmdata.stream.spec import StreamSpec
from mmdata.types import Drop, Origin, Sample, Text
from mmtrain.spec import TrainSpec

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in FENCE.findall(README) if name == language]


def commands() -> list[list[str]]:
    """The words of every command line of the README that runs a module of ours, comments left out."""
    lines = "\n".join([*blocks("bash"), *blocks("sh"), *blocks("console"), *blocks("")]).replace("\\\n", " ")
    found = [line for line in lines.split("\n") if re.match(r"\s*(\$ )?python -m mm(data|train)\b", line)]
    return [shlex.split(line.strip().removeprefix("$ "), comments=True)[2:] for line in found]


class Parsed(Exception):
    """Carries the arguments out of a command that has accepted them."""


def parse(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Run a command's own entry point up to where its arguments are parsed. A usage error is SystemExit."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **named: Any) -> argparse.Namespace:
        raise Parsed(real(self, *args, **named))

    module, *arguments = words
    if module in ("mmdata", "mmtrain"):
        module += ".__main__"
    main = importlib.import_module(module).main
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed) as caught:
            main(arguments)
    found: argparse.Namespace = caught.value.args[0]
    return found


def test_the_readme_has_what_is_tested_here() -> None:
    assert len(commands()) >= 5
    assert blocks("python")
    assert blocks("yaml")
    for name in ("mmdata.build", "mmdata.verify", "mmtrain.sft"):
        assert any(words[0] == name for words in commands()), f"no example of python -m {name}"


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = parse(words, monkeypatch)
    overrides = [re.sub(r"^((?:\w+\.)*path)=.*", r"\1=somewhere", line) for line in getattr(arguments, "set", [])]
    for name in (getattr(arguments, "spec", None), getattr(arguments, "config", None)):
        if name is None or not ((ROOT / name).is_file() or (ROOT / "pipelines" / name).is_file()):
            continue  # a file that the reader writes
        path = str(ROOT / name if (ROOT / name).is_file() else ROOT / "pipelines" / name)
        if words[0].startswith("mmdata"):
            specfile.load_build(path, overrides, check_paths=False)
        else:
            specfile.load(TrainSpec, path, overrides, check_paths=False)


def test_the_parser_of_a_command_refuses_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit):
        parse(["mmdata.build", "--spec", "a.yaml", "--no-such-option"], monkeypatch)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_a_spec_loads(text: str, tmp_path: Path) -> None:
    file = tmp_path / "readme.yaml"
    file.write_text(text, encoding="utf-8")
    if "source:" in text:
        spec, _ = specfile.load_build(str(file), check_paths=False)
        assert spec.output.path.startswith(str(tmp_path))
    elif text.startswith("datasets:"):
        specfile.load(StreamSpec, str(file), check_paths=False)
    else:  # what a config of a training run may say besides its data
        file.write_text(f"{text}\ndata: {{dataset: d, max_length: 64}}\noutput: run\n", encoding="utf-8")
        spec, _ = specfile.load(TrainSpec, str(file), check_paths=False)
        assert spec.parameters


@pytest.mark.parametrize("text", blocks("python"))
def test_a_python_block_compiles_and_its_imports_are_there(text: str) -> None:
    tree = ast.parse(text)
    compile(tree, "README.md", "exec")
    imports: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, []), "README.md", "exec"), {})


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
    prose = FENCE.sub("", README)
    generated = {line.strip("/\n") for line in (ROOT / ".gitignore").read_text().split("\n") if line.strip()}
    tops = {path.name for path in ROOT.iterdir()} - generated
    named = [code.rstrip("/") for code in re.findall(r"`([\w./-]+)`", prose)]
    paths = [code for code in named if "/" in code and code.partition("/")[0] in tops]
    paths += [
        code for code in named if re.fullmatch(r"[\w-]+\.(toml|md|ya?ml)|Makefile|LICENSE|constraints\.txt", code)
    ]
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in link]
    assert paths
    assert links
    assert [path for path in [*paths, *filter(None, links)] if not (ROOT / path).exists()] == []


def test_the_two_commands_and_every_make_target() -> None:
    assert "make demo" in README
    assert "make test" in README
    targets = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
    code = " \n".join([*blocks("bash"), *re.findall(r"`([^`\n]+)`", FENCE.sub("", README))])
    assert set(re.findall(r"^\s*make ([\w-]+)", code, re.MULTILINE)) <= targets


def test_shipped_specs_and_schemas_are_linked() -> None:
    assert "schemas/build.schema.json" in README
    assert "pipelines/" in README
    assert not re.search(r"!\[[^\]]*\]\(https?://", README), "no badges"
