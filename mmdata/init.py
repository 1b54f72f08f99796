"""`python -m mmdata.init`: a commented spec to begin with, of a shipped pipeline or a kind of source.

It is written from the specs' own classes (their docstrings, defaults and order), so that it says what the code does.
Keys behind `#` without a space have the value that is shown; take the `#` away to change one.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined, to_jsonable_python

from mmdata import pointer, registry, specfile, unread
from mmdata.errors import RunError, SpecError
from mmdata.spec import OutputSpec, is_path

WIDTH = 116
# Named, not imported: they live above this module.
LOADED = {"stream": "mmdata.stream.spec:StreamSpec", "train": "mmtrain.spec:TrainSpec"}
RUN = {
    "build": "python -m mmdata.build --spec {file} --dry-run    # what would be done; without --dry-run: done",
    "stream": 'StreamingDataset("{file}") in Python; python -m mmdata.explain {file} tells what is in it',
    "train": "python -m mmtrain.sft --config {file} --dry-run   # its arithmetic; without --dry-run: trains",
}
EXAMPLES: dict[str, Any] = {
    "mixture": {
        "sources": [
            {"name": "first", "source": {"kind": "folder", "path": "images/"}, "weight": 2.0},
            {"name": "second", "source": {"kind": "jsonl", "path": "rows.jsonl"}},
        ]
    },
    "huggingface": {"path": "parquet_files/"},
}
"""What a source is begun with where its required keys alone say too little."""
PATHS = {"laion": "metadata/", "jsonl": "rows.jsonl", "webdataset": "tars/", "folder": "images/", "dataset": "dataset/"}


def spec_of(name: str, base: Path | None = None) -> str:
    """The commented spec called `name`, its paths relative to the folder `base` (default: the current one).

    `name` is a shipped pipeline, a kind of source (a build), `stream` or `train`. Raises SpecError for another."""
    base = (base or Path.cwd()).absolute()
    shipped = {file.stem: file for file in specfile.pipelines().glob("*.yaml")}
    name = name.removesuffix(".yaml")
    if name in shipped:
        return _of_pipeline(shipped[name], base)
    if name in registry.kinds("source"):
        return _of_source(name)
    if name in LOADED:
        data: dict[str, Any] = {"dataset": "dataset/", "max_length": 2048}
        if name == "train":
            data = {"data": data, "output": "run/"}
        return _page(name, f"A {name} spec.", _model(name, data), data)
    known = list(dict.fromkeys([*shipped, *registry.kinds("source"), *LOADED]))  # a kind may be called as a pipeline is
    raise SpecError(f"init: nothing is called {name!r}; {registry.nearest(name, known)}; --list tells of each")


def listing() -> Iterator[str]:
    """A line for each name that `spec_of` knows."""
    yield "pipelines, as they are shipped:"
    for file in sorted(specfile.pipelines().glob("*.yaml")):
        comment = " ".join(line.strip("# ") for line in _header(file.read_text(encoding="utf-8")))
        yield f"  {file.stem:<16} {_short(comment)}"
    yield "builds, by the kind of their source:"
    for kind in registry.kinds("source"):
        yield f"  {kind:<16} {_short(registry.lookup('source', kind).__doc__ or '')}"
    yield "and:"
    yield "  stream           a StreamingDataset: order, packing, mixing"
    yield "  train            a training run: data, model, what is trained and how"


def steps() -> Iterator[str]:
    """A line for each kind of step."""
    for kind in registry.kinds("step"):
        yield f"  {kind:<20} {_short(registry.lookup('step', kind).__doc__ or '')}"


def _of_pipeline(file: Path, base: Path) -> str:
    text = file.read_text(encoding="utf-8")
    form = _form(text, file)
    data = specfile.values(file)
    model = _model(form, data)
    moved = _moved(model, data, file.parent, base)
    about = "\n".join(line.removeprefix("#").removeprefix(" ") for line in _header(text)).strip()
    return _page(form, about, model, moved)


def _of_source(kind: str) -> str:
    model = registry.lookup("source", kind)
    source = {"kind": kind, **_required(model, kind)}
    data = {
        "source": source,
        "fetch": {"user_agent": "mybot/1.0 (+https://example.org/bot; bot@example.org)"},
        "steps": [{"kind": "probe"}],
        "output": {"path": "dataset/"},
        "engine": {"kind": "local"},
    }
    about = f"A build from `{kind}`: {_paragraph(model.__doc__)}"
    return _page("build", about, _model("build", data), data)


def _form(text: str, file: Path) -> str:
    """Which schema a shipped file says that it has."""
    found = re.search(r"\$schema=\S*?(\w+)\.schema\.json", text)
    assert found is not None, f"{file}: its first line names no schema"
    return found[1]


def _model(form: str, data: Mapping[str, Any]) -> type[BaseModel]:
    if form == "build":
        return specfile.build_model(data)
    module, _, name = LOADED[form].partition(":")
    found: type[BaseModel] = getattr(importlib.import_module(module), name)
    return found


def _required(model: type[BaseModel], kind: str) -> dict[str, Any]:
    """Values for the keys that a source cannot do without."""
    if kind in EXAMPLES:
        return dict(EXAMPLES[kind])
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name != "kind" and field.is_required():
            listed = str(field.annotation).startswith("tuple")
            value = PATHS.get(kind, f"{kind}/") if name == "path" else f"{name}/"
            found[name] = [f"{name}.json"] if listed else value
    return found


def _page(form: str, about: str, model: type[BaseModel], data: Mapping[str, Any]) -> str:
    head = [*about.rstrip().split("\n"), ""]
    if "python -m" not in about:
        head += [RUN[form].format(file="THIS_FILE"), ""]
    head.append(
        "Keys behind `#` have the value that is shown: take the `#` away to change one, also from the key it is under."
    )
    head.append("Paths are relative to this file.")
    if form == "build":
        head.append("Further steps: python -m mmdata.init --steps")
    lines = [line for text in head for line in (textwrap.wrap(text, WIDTH) if len(text) > WIDTH else [text])]
    body = list(_keys(model, data, 0, live=True))
    return "\n".join([*(f"# {line}".rstrip() for line in lines), *body]).rstrip() + "\n"


def _keys(model: type[BaseModel], data: Mapping[str, Any], depth: int, *, live: bool) -> Iterator[str]:
    """The keys of a model, with what is said of each, first those of `data`; what `data` lacks is commented out."""
    pad = "  " * depth
    for name, field in model.model_fields.items():
        if live and name not in data and field.is_required():
            raise AssertionError(f"{model.__name__}.{name} is required")
        here = live and name in data
        value = data[name] if name in data else _default(field)
        inner = _inner(field.annotation, value)
        if depth == 0:
            yield ""
        if name != "kind":
            said = field.description or (inner.__doc__ if inner is not None else "") or ""
            yield from (f"{pad}# {line}" for line in textwrap.wrap(_paragraph(said), WIDTH - len(pad)))
        mark = "" if here else "#"
        if inner is not None and isinstance(value, Mapping):
            yield f"{pad}{mark}{name}:"
            yield from _keys(inner, value, depth + 1, live=here)
        elif here and isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            yield f"{pad}{name}:"
            for item in value:
                yield from _item(field.annotation, item, depth + 1)
        else:
            yield f"{pad}{mark}{name}: {_flow(value)}"


def _item(annotation: Any, item: Any, depth: int) -> Iterator[str]:
    """An item of a list: what its class is for, and the item in one line where it is short."""
    pad = "  " * depth
    kind = item.get("kind") if isinstance(item, Mapping) else None
    if kind is not None and kind in registry.kinds("step"):
        said = _first_sentence(registry.lookup("step", kind).__doc__ or "")
        yield from (f"{pad}# {line}" for line in textwrap.wrap(said, WIDTH - len(pad)))
    flow = _flow(item)
    if len(flow) + len(pad) + 2 <= WIDTH:
        yield f"{pad}- {flow}"
        return
    dumped = yaml.safe_dump(item, sort_keys=False, allow_unicode=True, width=WIDTH).rstrip().split("\n")
    yield from (f"{pad}{'- ' if at == 0 else '  '}{line}" for at, line in enumerate(dumped))


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return None if value is PydanticUndefined else _plain(value)


def _plain(value: Any) -> Any:
    return (
        value.model_dump(mode="json", exclude_unset=False)
        if isinstance(value, BaseModel)
        else to_jsonable_python(value)
    )


def _inner(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model that holds a value, if one does."""
    return specfile.model_of(annotation, value) if isinstance(value, Mapping) else None


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1_000_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _moved(model: type[BaseModel], data: Mapping[str, Any], origin: Path, base: Path) -> dict[str, Any]:
    """The values with paths as they are from `base`: to what is there, else the last part of the path alone. What is to
    be written has that name too, and not that of a dataset or run which happens to be there."""
    made: dict[str, Any] = {}
    for name, value in data.items():
        field = model.model_fields.get(name)
        inner = None if field is None else _inner(field.annotation, value)
        if inner is not None:
            made[name] = _moved(inner, value, origin, base)
        elif field is not None and isinstance(value, str) and "://" not in value and is_path(field):
            place, written = origin / value, name == "output" or issubclass(model, OutputSpec)
            made[name] = os.path.relpath(place, base) if place.exists() and not written else Path(value).name
        else:
            made[name] = value
    return made


def _header(text: str) -> list[str]:
    """The comment that a shipped file begins with, its first line (for editors) left out."""
    lines = text.split("\n")[1:]
    return lines[: next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))]


def _paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().split("\n\n")[0].split())


def _first_sentence(text: str) -> str:
    """
    >>> _first_sentence("Pictures by name. Their captions lie beside them.")
    'Pictures by name'
    """
    found = re.match(r".*?\.(?= |$)", _paragraph(text))
    return found[0].rstrip(".") if found else _paragraph(text)


def _short(text: str) -> str:
    """The first sentence in a line: up to its colon where it is long."""
    sentence = _first_sentence(text)
    if len(sentence) > 100:
        sentence = re.split(r"[:;] ", sentence)[0]
    return textwrap.shorten(sentence, 100, placeholder=" ...")


def write(name: str, output: Path) -> None:
    """Write the spec to a new file. Raises SpecError as `spec_of` does, and for a file that is there; RunError."""
    text = spec_of(name, output.parent)
    try:
        with open(output, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise SpecError(f"--output: {output} is there already; give the spec another name") from None
    except OSError as error:
        raise RunError(f"--output: {output}: {error.strerror}") from error


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0, or 1 or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.init",
        description="Write a commented spec to begin with: every key, what it means and its default, from the code.",
        epilog="examples:\n"
        "  python -m mmdata.init --list\n"
        "  python -m mmdata.init folder --output my.yaml     then: python -m mmdata.build --spec my.yaml --dry-run\n"
        "  python -m mmdata.init train --output sft.yaml     then: python -m mmtrain.sft --config sft.yaml --dry-run\n"
        "\n"
        "exit codes: 0 done; 1 cannot write; 2 no such name, or the file is there.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("name", nargs="?", metavar="NAME", help="a shipped pipeline, a kind of source, stream or train")
    what.add_argument("--list", action="store_true", help="say what names there are")
    what.add_argument("--steps", action="store_true", help="say what steps there are")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a new file (default: standard output)")
    options = parser.parse_args(argv)
    try:
        if options.list or options.steps:
            print(*(listing() if options.list else steps()), sep="\n")
        elif options.output is None:
            print(spec_of(options.name), end="")
        else:
            write(options.name, options.output)
            print(f"{options.output}: set its paths, then see what it would do:")
            form = "train" if "mmtrain" in options.output.read_text(encoding="utf-8").split("\n\n")[0] else "build"
            print(f"  {RUN[form].format(file=options.output).split('  ')[0]}")
    except SpecError as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {pointer.told(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
