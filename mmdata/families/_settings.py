"""What a family is told: parameters of its views by hand, and a checkpoint, which decides what is not said."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.types import Filter, MediaKind

V = TypeVar("V")
FILTERS: dict[int, Filter] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, which checkpoints write as `resample`."""
PROCESSORS: dict[MediaKind, tuple[str, ...]] = {
    "image": ("image_processor",),
    "video": ("video_processor",),
    "audio": ("feature_extractor", "audio_processor"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The configuration files of a local checkpoint folder; what it has not is empty.

    `media` holds the processor's parameters for each kind of media, `processor` those of the whole, `model` is
    `config.json`.
    """

    path: Path
    media: Mapping[MediaKind, Mapping[str, Any]]
    processor: Mapping[str, Any]
    model: Mapping[str, Any]

    @property
    def vision(self) -> Mapping[str, Any]:
        """The model's vision tower."""
        found: Mapping[str, Any] = self.model.get("vision_config") or {}
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Parameters by kind of media, and the checkpoint that decides the others."""

    given: Mapping[MediaKind, Mapping[str, Any]] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None

    def view(
        self, kind: MediaKind, view: Callable[..., V], read: Callable[[Checkpoint], Mapping[str, Any]], **defaults: Any
    ) -> V:
        """The view with the family's defaults, what `read` finds in the checkpoint, and what was given, in this order.

        Raises SpecError for a parameter that the view does not have, naming the nearest.
        """
        found = {} if self.checkpoint is None else read(self.checkpoint)
        given = dict(self.given.get(kind, {}))
        known = [f.name for f in fields(view)]  # type: ignore[arg-type]
        for name in given:
            if name not in known:
                raise SpecError(f"{kind}: no parameter {name!r}; {nearest(name, known)}")
        values = {**defaults, **{name: value for name, value in found.items() if value is not None}, **given}
        frozen = {name: _frozen(value) for name, value in values.items()}
        try:
            return view(**frozen)
        except TypeError as error:
            raise SpecError(f"{kind}: {error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the folder's `processor_config.json`, `preprocessor_config.json`, `video_preprocessor_config.json` and
    `config.json`. Raises SpecError for a folder without any of them, or a file that is not JSON."""
    whole = _json(path / "processor_config.json")
    single = _json(path / "preprocessor_config.json")
    video = _json(path / "video_preprocessor_config.json")
    model = _json(path / "config.json")
    if not (whole or single or video or model):
        raise SpecError(f"{path}: no processor_config.json, preprocessor_config.json or config.json in this folder")
    media: dict[MediaKind, Mapping[str, Any]] = {}
    for kind, names in PROCESSORS.items():
        # Version 5 writes one file with a section for each processor; before, each had a file of its own.
        nested: Mapping[str, Any] = next((whole[name] for name in names if isinstance(whole.get(name), dict)), {})
        media[kind] = nested or (video if kind == "video" and video else single)
    return Checkpoint(path=path, media=media, processor=whole, model=model)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SpecError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise SpecError(f"{path}: not a JSON object")
    return value


def pixels(found: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that all image processors write alike: mean, std and filter."""
    resample = found.get("resample")
    if resample is not None and resample not in FILTERS:
        raise SpecError(
            f"resample: {resample!r}; {', '.join(f'{n} ({name})' for n, name in FILTERS.items())} are known"
        )
    return {
        "mean": found.get("image_mean"),
        "std": found.get("image_std"),
        "filter": None if resample is None else FILTERS[resample],
    }


def side(size: Any, *names: str) -> int | None:
    """One number of a `size` or `crop_size`, which is a number or an object with `shortest_edge`, `height`, ..."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        found = next((size[name] for name in names or ("shortest_edge", "height") if size.get(name)), None)
        return None if found is None else int(found)
    return None


def _frozen(value: Any) -> Any:
    """Lists as tuples: views are hashable."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
