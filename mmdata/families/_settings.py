"""What a family is told: parameters of its views by hand, and a checkpoint, which decides what is not said."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from mmdata.errors import SpecError
from mmdata.registry import nearest
from mmdata.types import Filter, MediaKind
from mmdata.views.video import Video, sampling

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
        layers = [defaults, {name: value for name, value in found.items() if value is not None}, given]
        values = sampling(layers) if isinstance(view, type) and issubclass(view, Video) else _joined(layers)
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
    """The parameters that all image processors write alike: mean, std and filter.

    Views take values in 0..1 and always normalise; a checkpoint that scales otherwise, or leaves a step out, is said in
    mean and deviation. Raises SpecError for what no view does.

    >>> pixels({"image_mean": 0.5, "image_std": [0.25, 0.25, 0.25], "rescale_factor": 2 / 255})["mean"]
    (0.25, 0.25, 0.25)
    """
    resample = found.get("resample")
    if resample is not None and resample not in FILTERS:
        raise SpecError(
            f"resample: {resample!r}; {', '.join(f'{n} ({name})' for n, name in FILTERS.items())} are known"
        )
    if found.get("do_resize") is False:
        raise SpecError("do_resize: false; every view resizes")
    mean, std = _colour(found, "image_mean"), _colour(found, "image_std")
    if found.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    scale = 255 * (found.get("rescale_factor") or 1 / 255) if found.get("do_rescale") is not False else 255.0
    if abs(scale - 1) > 1e-6:  # 1/255 is written rounded
        if mean is None or std is None:
            raise SpecError("rescale_factor or do_rescale of its own, without image_mean and image_std")
        mean, std = tuple(value / scale for value in mean), tuple(value / scale for value in std)
    return {"mean": mean, "std": std, "filter": None if resample is None else FILTERS[resample]}


def pads_with_mean(found: Mapping[str, Any]) -> None:
    """Raise SpecError for a file by which pictures are padded with another colour than the one that becomes 0."""
    scale = 255 * (found.get("rescale_factor") or 1 / 255)
    if found.get("do_normalize") is False or found.get("do_rescale") is False or abs(scale - 1) > 1e-6:
        raise SpecError(
            "do_normalize, do_rescale or rescale_factor of its own, where pictures are padded with image_mean"
        )


def said(found: Mapping[str, Any], **unsaid: Any) -> Mapping[str, Any]:
    """A processor's file with what its class in transformers has where the file leaves a key out; of no file, nothing.

    >>> said({"patch_size": 14}, patch_size=16, merge_size=2), said({}, merge_size=2)
    ({'patch_size': 14, 'merge_size': 2}, {})
    """
    return {**unsaid, **found} if found else found


def frames(found: Mapping[str, Any]) -> dict[str, Any]:
    """How many frames of a video, or how often one."""
    number = found.get("num_frames")
    return {"num_frames": number, "fps": None if number else found.get("fps")}


def _colour(found: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """A number for each of three channels, or one for all."""
    value = found.get(name)
    if value is None:
        return None
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(values) != 3 or not all(isinstance(number, int | float) for number in values):
        raise SpecError(f"{name}: {value!r}; give three numbers, or one")
    return tuple(float(number) for number in values)


def square(found: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `Fixed`: how a picture becomes a square. CLIP's processors crop what they have resized, SigLIP's
    and ViT's have no crop (null in files of version 5), and squash. Raises SpecError for what stays no square."""
    size, crop = found.get("size"), side(found.get("crop_size"))
    crops = found.get("do_center_crop", crop is not None)
    squash = bool(size.get("height")) if isinstance(size, Mapping) else size is not None and _both_sides(found, crops)
    if size and not crops and not squash and not found.get("do_pad"):
        raise SpecError(f"size: {size!r} without a centre crop leaves pictures that are no squares")
    return {"size": side(size), "crop": crop if crops else None, "mode": "squash" if squash else None}


BOTH_SIDES = frozenset({"Beit", "DeiT", "Flava", "PPLCNet", "ViT"})
"""Whose image processors take a `size` that is a number for height and width (transformers: `default_to_square`),"""
SHORTEST_EDGE = frozenset(
    {"Bit", "ChineseCLIP", "CLIP", "ConvNext", "Levit", "Llava", "MobileViT", "Siglip", "VideoMAE"}
)
"""and whose for the shortest edge."""
_PROCESSOR = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")


def _both_sides(found: Mapping[str, Any], crops: bool) -> bool:
    """Whether a `size` that is a number is height and width; of processors nobody knows, those that do not crop."""
    kind = _PROCESSOR.sub("", str(found.get("image_processor_type") or found.get("feature_extractor_type") or ""))
    return kind in BOTH_SIDES or (kind not in SHORTEST_EDGE and not crops)


def no_class_token(checkpoint: Checkpoint) -> None:
    """Raise SpecError for a checkpoint whose processor counts other tokens than the patches of a picture."""
    strategy, extra = (
        checkpoint.processor.get(name) for name in ("vision_feature_select_strategy", "num_additional_image_tokens")
    )
    if strategy is not None and extra is not None and extra != (strategy == "default"):
        raise SpecError(
            f"vision_feature_select_strategy: {strategy!r} with num_additional_image_tokens {extra} counts "
            f"{extra - (strategy == 'default'):+d} tokens beside the patches of a picture; the views count patches only"
        )


def side(size: Any, *names: str) -> int | None:
    """One number of a `size` or `crop_size`, which is a number or an object with `shortest_edge`, `height`, ..."""
    if isinstance(size, int):
        return size
    if isinstance(size, Mapping):
        height, width = size.get("height"), size.get("width")
        if height and width and height != width:
            raise SpecError(f"size: {height} x {width}; the views make squares")
        found = next((size[name] for name in names or ("shortest_edge", "height") if size.get(name)), None)
        return None if found is None else int(found)
    return None


def _joined(layers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for layer in layers for name, value in layer.items()}


def _frozen(value: Any) -> Any:
    """Lists as tuples: views are hashable."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
