"""What a stream is opened with: arguments or a spec file to one spec, a family, a template and a world."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from mmdata import specfile
from mmdata.errors import SpecError
from mmdata.families import Family, get_family
from mmdata.shards.cache import Cache
from mmdata.shards.storage import user_cache
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Template, Tokenizer, Weights, get_template, take_processors
from mmdata.types import World

Path = str | os.PathLike[str]
Source = Path | StreamSpec | Sequence[Path] | Mapping[Path, float]
"""A folder, a spec or the file of one, folders that are pooled, or folders with weights."""


def stream_spec(source: Source, given: Mapping[str, Any]) -> StreamSpec:
    """The spec of a folder and arguments, or of a spec (file) that already says what they would.

    Raises SpecError for arguments that are wrong, or that say otherwise than the spec."""
    if isinstance(source, StreamSpec):
        spec = source
    elif isinstance(source, str | os.PathLike) and str(source).endswith((".yaml", ".yml")):
        spec, _ = specfile.load(StreamSpec, str(source))
    else:
        try:
            return StreamSpec(**_datasets(source), **given)
        except ValidationError as error:
            wrong = [_mistake(e) for e in error.errors(include_url=False)]
            raise SpecError("StreamingDataset: " + "; ".join(wrong)) from error
    defaults = StreamSpec(dataset="any")
    twice = [name for name, value in given.items() if value not in (getattr(defaults, name), getattr(spec, name))]
    if twice:
        raise SpecError(f"{', '.join(twice)}: the stream's spec says otherwise; say it there only")
    return spec


def stream_cache(spec: StreamSpec) -> Cache | None:
    """Where files of a remote dataset are kept, where the spec says so. Raises SpecError for a folder that cannot be
    used."""
    if spec.cache is None and "cache_bytes" not in spec.model_fields_set:
        return None
    return Cache(user_cache("shards") if spec.cache is None else spec.cache, spec.cache_bytes)


def _datasets(source: Source) -> dict[str, Any]:
    if isinstance(source, str | os.PathLike):
        return {"dataset": str(source)}
    if isinstance(source, Mapping):
        return {"datasets": [{"path": str(path), "weight": weight} for path, weight in source.items()]}
    assert not isinstance(source, StreamSpec), source
    return {"datasets": [{"path": str(path)} for path in source]}


def _mistake(error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    return f"{where}: {error['msg']}, not {error['input']!r}" if where else str(error["msg"])


def stream_templates(template: str | Template | None, spec: StreamSpec, family: Family | None) -> list[Template]:
    """The template of each dataset: its own, or the stream's."""
    made: dict[str | None, Template] = {None: stream_template(template, spec, family)}
    for name in {each.template for each in spec.sources} - {None}:
        made[name] = stream_template(None, spec.model_copy(update={"template": name}), family)
    return [made[each.template] for each in spec.sources]


def stream_template(template: str | Template | None, spec: StreamSpec, family: Family | None) -> Template:
    """The template that a spec names, or the one that is given. Raises SpecError where both say something."""
    if isinstance(template, Template):
        told: dict[str, Any] = {
            "template_options": {},
            "system": None,
            "train_on": "assistant",
            "token_weights": Weights(),
        }
        if twice := [name for name, default in told.items() if getattr(spec, name) != default]:
            raise SpecError(f"{', '.join(twice)}: the template already says it; give its name, or say it there only")
        return template if family is None else replace(template, around=family.around)
    return get_template(
        spec.template,
        tokenizer=None if family is None else family.tokenizer,
        markers={} if family is None else family.markers,
        around={} if family is None else family.around,
        train_on=spec.train_on,
        weights=spec.token_weights,
        system=spec.system,
        options=spec.template_options,
        pairs=spec.pairs,
    )


def stream_family(family: str | Family | None, tokenizer: str | os.PathLike[str] | Tokenizer | None) -> Family | None:
    """The family, with its tokenizer. Raises SpecError where one lacks the other."""
    if family is None:
        if tokenizer is not None:
            raise SpecError("tokenizer: without a family the stream yields samples and tokenises nothing")
        return None
    if isinstance(family, Family):
        if tokenizer is not None and tokenizer is not family.tokenizer:
            raise SpecError("tokenizer: the family already has one; leave it out here")
        return family
    if tokenizer is None:
        raise SpecError(f"tokenizer: family {family!r} needs one")
    if isinstance(tokenizer, str | os.PathLike):
        return get_family(family, tokenizer=_read_tokenizer(str(tokenizer)))
    return get_family(family, tokenizer=tokenizer)


def _read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a folder, or of the hub's cache; nothing is fetched, and no code of it is run."""
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        if not os.path.isdir(path):
            raise SpecError(f"tokenizer: no such folder: {path}, nor is it in the hub's cache here") from error
        why = str(error).strip().splitlines()[0]
        raise SpecError(f"tokenizer: {path} holds no tokenizer that can be read: {why}") from error
    take_processors(loaded, path, local=True)
    return loaded  # type: ignore[no-any-return]


def stream_world(world: World | None) -> World:
    """Who reads: as told, else this process's place in an initialised `torch.distributed` group, else all alone.

    Under model parallelism ranks that share a sample must be told the same world. Raises SpecError for a rank that
    does not exist."""
    if world is None:
        from torch import distributed

        grouped = distributed.is_available() and distributed.is_initialized()
        world = World(rank=distributed.get_rank(), ranks=distributed.get_world_size()) if grouped else World()
    if not 0 <= world.rank < world.ranks:
        raise SpecError(f"world: rank {world.rank} of {world.ranks}")
    return world


def stream_batch(global_batch: int | None, world: World, *, packs: bool) -> int:
    """Packs, or else samples, that all ranks take per step. Raises SpecError for none, and for too few samples: a rank
    without a pack has a dummy, and one without a sample would wait for one without end."""
    if global_batch is None:
        return world.ranks
    if global_batch < 1:
        raise SpecError(f"global_batch: {global_batch} packs per step; at least 1 is needed")
    if not packs and global_batch < world.ranks:
        raise SpecError(
            f"global_batch: {global_batch} samples per step for {world.ranks} ranks: some would never get one; give "
            "each at least one"
        )
    return global_batch
