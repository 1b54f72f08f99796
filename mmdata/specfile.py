"""Spec files: YAML in, a typed spec out, and every mistake of a file in one message."""

from __future__ import annotations

import functools
import json
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import yaml
from pydantic import BaseModel, Field, ValidationError, create_model
from pydantic_core import to_jsonable_python

from mmdata import registry
from mmdata.errors import SpecError
from mmdata.settings import difference as difference
from mmdata.settings import digest as digest
from mmdata.settings import shown
from mmdata.spec import MADE, BuildSpec, Model, owned

M = TypeVar("M", bound=Model)
Loc = tuple[int | str, ...]
_FORMS = {
    frozenset({"source", "output"}): "a build: python -m mmdata.build --spec {file}",
    frozenset({"data", "output"}): "a training run: python -m mmtrain.sft --config {file}",
    frozenset({"dataset", "max_length"}): "a stream: StreamingDataset({file!s}), or `data:` of a training run",
}
"""Keys by which the specs of commands are told apart, and what takes them."""


def find(name: str) -> Path:
    """The file that `--spec name` means: a path, or the name of a shipped pipeline. Raises SpecError."""
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, `~nobody/`, no permission
        raise SpecError(f"{name}: {error}") from error
    if path.is_dir():
        if (path / "manifest.json").is_file():
            raise SpecError(
                f"{name}: a dataset, not a spec file; a spec names it (python -m mmdata.init train, or stream)"
            )
        raise SpecError(f"{name}: a folder, not a spec file; python -m mmdata.init --list tells of specs to begin with")
    if path.parent == Path("."):
        shipped = pipelines()
        folders = (shipped, shipped / "train")
        for candidate in (folder / each for folder in folders for each in (name, f"{name}.yaml")):
            if candidate.is_file():
                return candidate
        known = sorted({file.name for folder in (*folders, Path()) for file in folder.glob("*.yaml")})
        raise SpecError(f"{name}: no such file, nor a shipped pipeline; {registry.nearest(name, known)}")
    raise SpecError(f"{name}: no such file")


def pipelines() -> Path:
    """The folder of shipped pipelines: inside the package when installed, beside it in a checkout."""
    package = Path(__file__).parent
    return package / "pipelines" if (package / "pipelines").is_dir() else package.parent / "pipelines"


def build_model(data: Any = None) -> type[BuildSpec]:
    """BuildSpec with `source` and `steps` as unions of registered kinds, told apart by `kind`: of all of them, or
    of those that `data`, the values of a spec, name. The latter spares loading what the others import."""
    values = data if isinstance(data, dict) else {}
    fields: dict[str, Any] = {
        "source": (_union("source", [values.get("source")]), _redescribed("source")),
        "steps": (tuple[_union("step", values.get("steps")), ...], _redescribed("steps", default=())),  # type: ignore[misc]
    }
    return create_model("BuildSpec", __base__=BuildSpec, __doc__=BuildSpec.__doc__, __cls_kwargs__=MADE, **fields)


def _named(group: str, items: Any) -> list[str]:
    """The kinds that `items` name; all kinds unless each of them names a known one, for whoever tells of mistakes."""
    known = registry.kinds(group)
    named = [item.get("kind") if isinstance(item, dict) else None for item in items] if isinstance(items, list) else []
    return [kind for kind in known if kind in named] if named and all(kind in known for kind in named) else known


def _union(group: str, items: Any, without: str | None = None) -> Any:
    options = tuple(_option(group, kind, items) for kind in _named(group, items) if kind != without)
    if len(options) == 1:  # a union of one is no union; pydantic refuses a discriminator on it
        return options[0]
    return Annotated[Union[options], Field(discriminator="kind")]  # noqa: UP007


def _option(group: str, kind: str, items: Any) -> Any:
    """The class of a kind; of a mixture, which holds sources of the other kinds, one that knows these."""
    found = registry.lookup(group, kind)
    if kind != "mixture" or group != "source":
        return found
    listed = (
        items[0].get("sources") if isinstance(items, list) and len(items) == 1 and isinstance(items[0], dict) else None
    )
    inner = [part.get("source") if isinstance(part, dict) else None for part in listed or ()]
    return found.of(_union(group, inner, without=kind))


def _redescribed(name: str, default: Any = ...) -> Any:
    return Field(default, description=BuildSpec.model_fields[name].description)


def load_build(name: str, overrides: Sequence[str] = (), *, check_paths: bool = True) -> tuple[BuildSpec, Path]:
    """Load a build spec: plugins first, so that their kinds are known. Raises SpecError."""
    file = find(name)
    data, _ = _read(file)
    for override in overrides if isinstance(data, dict) else ():
        _override(data, override, {})  # `load` tells of mistakes in it
    plugins = data.get("plugins", ()) if isinstance(data, dict) else ()
    for plugin in plugins if isinstance(plugins, list | tuple) else ():
        if isinstance(plugin, str):
            registry.load_plugin(str(file.parent / plugin) if plugin.endswith(".py") else plugin)
    return load(build_model(data), name, overrides, check_paths=check_paths)


def load(model: type[M], name: str, overrides: Sequence[str] = (), *, check_paths: bool = True) -> tuple[M, Path]:
    """Load and validate a spec file; returns it and the file's path.

    `overrides` are `a.b=value` strings, the value in YAML; a list item is named by its number or its kind
    (`steps.0.pixels=128`, `steps.min_side.pixels=128`). Raises SpecError that lists every mistake with its
    line, path, value and the nearest known name.
    """
    file = find(name)
    data, mistakes = _read(file)
    if not isinstance(data, dict):
        raise SpecError(f"{file}: the top level must be a mapping of keys, not {shown(data)}")
    given: dict[int, str] = {}
    for override in overrides:
        mistakes.extend(_override(data, override, given))
    try:
        spec = model.model_validate(data, context={"base": file.parent, "check_paths": check_paths, "given": given})
    except ValidationError as error:
        _refuse_another(model, data, file)
        lines = _lines(file)
        mistakes.extend(_mistake(model, data, lines, problem) for problem in _distinct(error))
        spec = None
    if mistakes or spec is None:
        count = f"{len(mistakes)} mistake" + ("s" if len(mistakes) > 1 else "")
        raise SpecError("\n".join([f"{file}: {count}", *(f"  {mistake}" for mistake in mistakes)]))
    return spec, file


def values(file: Path) -> Any:
    """What a spec file says, unchecked. Raises SpecError for one that cannot be read."""
    return _read(file)[0]


def mistakes(model: type[BaseModel], data: Any, error: ValidationError) -> list[str]:
    """A line for each mistake that validating `data` found: path, value, what is wrong, what to do."""
    return [_mistake(model, data, {}, problem) for problem in _distinct(error)]


def _refuse_another(model: type[BaseModel], data: dict[str, Any], file: Path) -> None:
    """Raise SpecError for the spec of another command: each of its keys would be told to be unknown."""
    for keys, what in _FORMS.items():
        if keys <= data.keys() and not keys <= model.model_fields.keys():
            raise SpecError(f"{file}: this is the spec of {what.format(file=file)}")


def _distinct(error: ValidationError) -> Iterator[Any]:
    """What is wrong, each mistake once. Of a value that may be one of some words or something else pydantic tells that
    it is none of all that: a word is meant to be one of the words."""
    problems = error.errors(include_url=False)
    words = {
        _without_options(each["loc"])
        for each in problems
        if each["type"] == "literal_error" and isinstance(each["input"], str)
    }
    for problem in problems:
        loc = _without_options(problem["loc"])
        if problem["type"] == "extra_forbidden":  # its last name is a key of the file, whatever it looks like
            loc = (*_without_options(problem["loc"][:-1]), problem["loc"][-1])
        if loc in words and problem["type"] != "literal_error":
            continue
        yield {**problem, "loc": loc}


def _without_options(loc: Loc) -> Loc:
    """
    >>> _without_options(("optim", "schedule", "literal['constant','cosine']"))
    ('optim', 'schedule')
    """
    return tuple(name for name in loc if not (isinstance(name, str) and "[" in name))


def bound(spec: Model) -> dict[str, Any]:
    """The spec with every default filled in, without the fields that cannot change the result."""
    return {name: _bound_value(getattr(spec, name)) for name in _binding(type(spec))}


@functools.cache
def _binding(kind: type[Model]) -> tuple[str, ...]:
    """The fields of a spec that can change the result."""
    return tuple(
        name
        for name, field in kind.model_fields.items()
        if not (isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("runtime"))
    )


def _bound_value(value: Any) -> Any:
    if value is None or type(value) in (str, int, bool, float):  # most are, and a stream that opens asks for all
        return value
    if isinstance(value, Model):
        return bound(value)
    if isinstance(value, tuple | list):
        return [_bound_value(item) for item in value]
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return to_jsonable_python(value)


class _Loader(yaml.SafeLoader):
    """YAML 1.1's SafeLoader, except that `on`, `off`, `yes` and `no` stay words: `mode: no` is a string here."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _compose(file: Path) -> yaml.Node | None:
    try:
        return yaml.compose(file.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        began = error.context_mark
        context = f" ({error.context} that begins on line {began.line + 1})" if error.context and began else ""
        tabs = "; YAML is indented by spaces, not by tabs" if "'\\t'" in str(error.problem) else ""
        raise SpecError(f"{file}{place}: not valid YAML: {error.problem}{context}{tabs}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SpecError(f"{file}: cannot be read: {error}") from error
    except RecursionError as error:
        raise SpecError(f"{file}: nested too deep") from error


def _read(file: Path) -> tuple[Any, list[str]]:
    """The file's value, and its doubled keys (which YAML would let the last one win)."""
    node = _compose(file)
    if node is None:
        return {}, []
    mistakes = []
    try:
        mappings = list(_mappings(node, ()))
    except RecursionError as error:
        raise SpecError(f"{file}: a value that contains itself") from error
    for path, mapping in mappings:
        seen: dict[str, int] = {}
        for key, _ in mapping.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise SpecError(f"{file}:{line}: {_dotted(path)}: a key must be a word")
            if key.value in seen:
                place = _dotted((*path, key.value))
                mistakes.append(f"line {line}: {place}: written twice, first on line {seen[key.value]}; keep one")
            seen[key.value] = line
    loader = _Loader("")
    try:
        return loader.construct_document(node), mistakes
    except (yaml.YAMLError, ValueError, TypeError) as error:  # ValueError: a 13th month, a number of 5,000 digits
        raise SpecError(f"{file}: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()


def _mappings(node: yaml.Node, path: Loc) -> Iterator[tuple[Loc, yaml.MappingNode]]:
    if isinstance(node, yaml.MappingNode):
        yield path, node
        for key, value in node.value:
            yield from _mappings(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            yield from _mappings(value, (*path, at))


def _lines(file: Path) -> dict[Loc, int]:
    node = _compose(file)
    lines: dict[Loc, int] = {}

    def visit(node: yaml.Node, path: Loc) -> None:
        lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                lines[(*path, key.value)] = key.start_mark.line + 1
                visit(value, (*path, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for at, value in enumerate(node.value):
                visit(value, (*path, at))

    if node is not None:
        visit(node, ())
    return lines


def _override(data: dict[str, Any], override: str, given: dict[int, str]) -> list[str]:
    """Apply one `a.b=value`; returns mistakes. `given` gets the strings of the value, by their identity."""
    path, separator, text = override.partition("=")
    if not separator or not path:
        return [f"--set {override}: write it as path=value, for example steps.min_side.pixels=256"]
    try:
        value = yaml.load(text, Loader=_Loader)
        json.dumps(value, default=str)  # a value that contains itself is none
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return [f"--set {override}: the value is not valid YAML"]
    value = owned(value, given)
    target: Any = data
    *parents, last = path.split(".")
    for at, name in enumerate(parents):
        if isinstance(target, dict) and name not in target:
            target[name] = {}
        found = _item(target, name)
        if found is None:
            return [f"--set {override}: there is no {'.'.join(parents[: at + 1])!r} in the spec{_items(target)}"]
        target = target[found]
    if isinstance(target, dict):
        target[last] = value
        return []
    found = _item(target, last)
    if found is None:
        return [f"--set {override}: there is no {path!r} in the spec{_items(target)}"]
    target[found] = value
    return []


def _item(container: Any, name: str) -> Any:
    """The key or number under which `name` is found; list items go by number or by kind."""
    if isinstance(container, dict):
        return name if name in container else None
    if isinstance(container, list):
        if name.isdigit():
            return int(name) if int(name) < len(container) else None
        same = [at for at, item in enumerate(container) if isinstance(item, dict) and item.get("kind") == name]
        return same[0] if len(same) == 1 else None
    return None


def _items(container: Any) -> str:
    if not isinstance(container, list):
        return ""
    kinds = [str(item.get("kind")) for item in container if isinstance(item, dict)]
    return f"; items go by number (0 to {len(container) - 1}) or by a kind that occurs once ({', '.join(kinds)})"


def _dotted(path: Loc) -> str:
    """
    >>> _dotted(("steps", 2, "pixels"))
    'steps[2].pixels'
    """
    text = ""
    for name in path:
        text += f"[{name}]" if isinstance(name, int) else f".{name}" if text else str(name)
    return text or "(top level)"


def _mistake(model: type[BaseModel], data: Any, lines: dict[Loc, int], problem: Any) -> str:
    """One line for one pydantic error: line, path, value, what is wrong, what to do."""
    path, where = _walk(model, data, problem["loc"])
    kind, context, message = problem["type"], problem.get("ctx", {}), problem["msg"]
    value = "" if kind == "missing" else f": {shown(problem['input'])}"
    if kind == "extra_forbidden":
        known = list(where.model_fields) if where else []
        message = f"unknown key; {registry.nearest(path[-1], known)}"
    elif kind == "missing":
        description = (
            where.model_fields[str(path[-1])].description if where and path[-1] in where.model_fields else None
        )
        message = "required, but missing" + (f" ({description.strip().splitlines()[0]})" if description else "")
    elif kind == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in context["expected_tags"].split(", ")]
        path, value = (*path, "kind"), f": {shown(context['tag'])}"
        message = f"no such kind; {registry.nearest(context['tag'], known)}"
    elif kind == "union_tag_not_found":
        message = "required key 'kind' is missing"
        keys = problem["input"] if isinstance(problem["input"], dict) else {}
        if joined := [key for key in keys if str(key).startswith("kind:")]:
            message += f"; write a space behind the colon: `{str(joined[0]).replace(':', ': ', 1)}`"
    elif kind == "literal_error" and isinstance(problem["input"], str):
        known = [str(option) for option in _literals(where, path)]
        if known:
            message = f"not a known value; {registry.nearest(problem['input'], known)}"
    elif kind == "tuple_type":
        message = "a list is needed"
    elif kind in ("model_type", "model_attributes_type"):
        message = "a mapping of keys is needed"
    elif kind == "value_error":
        message = str(context.get("error", message))
        if not path:  # it names its keys itself, and the value would be the whole file
            return message
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    return (f"line {line}: " if line else "") + f"{_dotted(path)}{value}: {message}"


def _walk(model: type[BaseModel], data: Any, loc: Loc) -> tuple[Loc, type[BaseModel] | None]:
    """The path in the file for a pydantic location (which also names union tags), and the model that holds it."""
    path: list[int | str] = []
    annotation: Any = model
    holder: type[BaseModel] | None = None
    for at, name in enumerate(loc):
        here = model_of(annotation, data)
        if (
            isinstance(data, dict)
            and name not in data
            and (name == data.get("kind") or (at < len(loc) - 1 and here is None))
        ):
            annotation = model_of(annotation, {"kind": name}) or annotation
            continue  # a union tag, not a key
        if here is not None:
            holder = here
            field = here.model_fields.get(str(name))
            annotation = field.annotation if field else None
        else:
            arguments = typing.get_args(annotation)
            annotation = arguments[0] if arguments else None
        path.append(name)
        try:
            data = data[name]
        except (KeyError, IndexError, TypeError):
            data = None
    return tuple(path), holder


def model_of(annotation: Any, data: Any) -> type[BaseModel] | None:
    """The model class an annotation means for this value: unwraps Annotated and Optional, picks a union's kind."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return model_of(typing.get_args(annotation)[0], data)
    if origin in (Union, types.UnionType):
        models = [m for option in typing.get_args(annotation) if (m := model_of(option, data)) is not None]
        if len(models) == 1:
            return models[0]
        for option in models:
            kind = option.model_fields.get("kind")
            if kind and isinstance(data, dict) and data.get("kind") in typing.get_args(kind.annotation):
                return option
    return None


def _literals(model: type[BaseModel] | None, path: Loc) -> list[Any]:
    names = [name for name in path if isinstance(name, str)]
    field = model.model_fields.get(names[-1]) if model and names else None
    found: list[Any] = []

    def visit(annotation: Any) -> None:
        if typing.get_origin(annotation) is Literal:
            found.extend(typing.get_args(annotation))
        else:
            for argument in typing.get_args(annotation):
                visit(argument)

    if field:
        visit(field.annotation)
    return found
