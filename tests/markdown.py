"""What tests of README and docs share: blocks of code and links out of Markdown, commands up to their parsed arguments,
and a page run from its top to its end."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mmdata import specfile
from mmdata.stream.spec import StreamSpec
from mmtrain.contrastive.spec import ContrastiveSpec
from mmtrain.spec import TrainSpec

FENCE = re.compile(r"^```([^`\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PAIRS = {"loss", "pairs_per_forward", "momentum", "masking", "spread"}
"""What only a run of pairs is told."""
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block. Behind its language may stand `file=NAME` (the reader saves it under that name), `run` (its
    commands are run here), `fails` (so are they, and end with an error), `shows` (what the command before it prints;
    `...` stands for what differs), `wrong` (a spec with mistakes) or `names` (only compiled and imported: it needs what
    a test has not)."""

    language: str
    info: frozenset[str]
    text: str

    @property
    def file(self) -> str | None:
        return next((word.removeprefix("file=") for word in self.info if word.startswith("file=")), None)


def blocks(markdown: str, *languages: str) -> list[Block]:
    """The fenced blocks of a text, in order; with `languages` those alone."""
    found = []
    for told, text in FENCE.findall(markdown):
        language, *info = told.split() or [""]
        if not languages or language in languages:
            found.append(Block(language=language, info=frozenset(info), text=text))
    return found


def prose(markdown: str) -> str:
    """The text without its blocks and comments."""
    return COMMENT.sub("", FENCE.sub("", markdown))


def commands(text: str) -> list[list[str]]:
    """The words of every command line of a shell block that runs a module of ours, comments left out."""
    lines = text.replace("\\\n", " ").split("\n")
    ours = [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?python -m mm(data|train)\b", line)]
    return [shlex.split(line, comments=True)[2:] for line in ours]


def all_commands(markdown: str) -> list[list[str]]:
    return [words for block in blocks(markdown, "bash", "sh", "console", "") for words in commands(block.text)]


def anchors(markdown: str) -> set[str]:
    """Where a link may lead within a page: its headings, as GitHub names them, and `<a id="...">`."""
    found = set(re.findall(r'<a id="([^"]+)"', markdown))
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", markdown), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def links(markdown: str) -> list[str]:
    """The targets of its links and pictures that lie in the repository."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(markdown))
    return [target for target in found if "://" not in target]


class Parsed(Exception):
    """Carries the arguments out of a command that has accepted them."""


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Run a command's own entry point up to where its arguments are parsed. A usage error is SystemExit."""
    real = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **named: Any) -> argparse.Namespace:
        raise Parsed(real(self, *args, **named))

    main = _main(words[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        with pytest.raises(Parsed) as caught:
            main(list(words[1:]))
    found: argparse.Namespace = caught.value.args[0]
    return found


def _main(module: str) -> Any:
    return importlib.import_module(f"{module}.__main__" if module in ("mmdata", "mmtrain") else module).main


def load_yaml(text: str, folder: Path) -> Any:
    """A spec, or the part of one that a page shows: of a build, a stream or a run, whichever has its keys;
    what else it needs is filled in. Raises SpecError where it is none."""
    import yaml

    told = yaml.safe_load(text)
    assert isinstance(told, dict), f"no mapping: {text!r}"
    keys, file = set(told), folder / "block.yaml"
    build = {"source", "fetch", "engine", "plugins", "limit"} | (
        {"steps"} if isinstance(told.get("steps"), list) else set()
    )
    if "data" in keys:  # a run has plugins too
        build.discard("plugins")
    if keys & build:
        filled: dict[str, Any] = {"source": {"kind": "folder", "path": "."}, "output": {"path": "out"}}
    elif keys <= set(StreamSpec.model_fields):
        filled = {} if keys & {"dataset", "datasets"} else {"dataset": "data/pets"}
    else:
        filled = {"data": {"dataset": "data/pets", "max_length": 64}, "output": "run"}
    missing = {name: value for name, value in filled.items() if name not in told}
    file.write_text(text + "\n" + (yaml.safe_dump(missing) if missing else ""), encoding="utf-8")
    if keys & build:
        return specfile.load_build(str(file), check_paths=False)[0]
    train = ContrastiveSpec if keys & _PAIRS else TrainSpec
    model = StreamSpec if keys <= set(StreamSpec.model_fields) else train
    return specfile.load(model, str(file), check_paths=False)[0]


@dataclass(slots=True, kw_only=True)
class Page:
    """A page as a reader follows it in `folder`: files are saved, Python runs in one namespace from block to block,
    commands that are to be run are run in this process."""

    folder: Path
    names: dict[str, Any] = field(default_factory=dict)
    printed: str = ""
    """What the last command, or block of Python, printed."""

    def follow(self, markdown: str) -> None:
        with contextlib.chdir(self.folder):
            for block in blocks(markdown):
                self.take(block)

    def take(self, block: Block) -> None:
        if block.file is not None:
            place = self.folder / block.file
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(block.text, encoding="utf-8")
        if block.language in ("bash", "sh", "console"):
            self._shell(block)
        elif block.language == "python" and block.file is None:
            self._python(block)
        elif block.language == "yaml" and "wrong" not in block.info:
            load_yaml(block.text, self.folder)
        elif "shows" in block.info:
            compare(block.text, self.printed)

    def _shell(self, block: Block) -> None:
        for words in commands(block.text):
            parse(words)
            if block.info & {"run", "fails"}:
                said = io.StringIO()
                with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                    code = _main(words[0])(words[1:])
                self.printed = said.getvalue()
                assert bool(code) == ("fails" in block.info), f"{words}: exit {code}\n{self.printed}"

    def _python(self, block: Block) -> None:
        code = compile(block.text, "page", "exec")
        if "names" in block.info:
            lines = [line for line in block.text.split("\n") if re.match(r"(from|import) ", line)]
            exec("\n".join(lines), {})
            return
        self.names.setdefault("__name__", "page")  # the module of what it defines
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(code, self.names)
        self.printed = said.getvalue()


def compare(shown: str, printed: str) -> None:
    """Every line shown is printed, in order; `...` in a line stands for anything."""
    lines = iter(printed.splitlines())
    for line in shown.strip().splitlines():
        if line.strip() == "...":
            continue
        pattern = ".*".join(re.escape(piece) for piece in line.strip().split("..."))
        assert any(re.fullmatch(pattern, candidate.strip()) for candidate in lines), f"not printed: {line}\n{printed}"
