"""Which family makes a model's batches, and the special tokens that it wants of a tokenizer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from mmdata import registry
from mmdata.errors import SpecError
from mmdata.families import Family, _AnyToken, get_family
from mmdata.shards.dataset import Dataset
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import MediaKind
from mmdata.views.bounded import Bounded
from mmdata.views.resampled import Resampled
from mmdata.views.waveform import Waveform
from mmtrain.models import connectors, fusion, hf
from mmtrain.models.configs import LatentConfig, NativeConfig, NavitConfig, VarlenAudioConfig
from mmtrain.models.hearing import WAVES, Heard
from mmtrain.models.native_build import native_config
from mmtrain.models.source import folder_of
from mmtrain.models.spec import HfSpec, HfVisionSpec, ModelSpec, NativeSpec, TinySpec
from mmtrain.models.towers import presets, spectrograms
from mmtrain.models.video import planned

PROCESSORS = ("processor_config.json", "preprocessor_config.json")
"""The files that say how pictures become pixels."""
HALF = (0.5, 0.5, 0.5)
"""Mean and deviation of the pixels of tokenisers, which are from -1 to 1."""
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")


def family_of(spec: ModelSpec, tokenizer: Any) -> Family:
    """The family that makes batches for a model, bound to a tokenizer. Raises SpecError as `get_family` does, and for
    models whose family is not known."""
    if isinstance(spec, TinySpec):
        return get_family(spec.family, tokenizer=tokenizer, image={"size": spec.image_size, "patch": spec.patch_size})
    if isinstance(spec, NativeSpec):
        folder = folder_of_vision(spec)
        return native_family(native_config(spec), tokenizer, spec.views.given(), folder)
    folder = folder_of(spec, "model")
    config = hf.read_config(folder, "model")
    name = spec.family or hf.family_name(config, "model")
    if name == "text":
        if spec.views.given():
            raise SpecError("model.views: a language model alone takes no media")
        return Family(name="text", tokenizer=tokenizer, media={})
    views: Any = spec.views.given()
    known = registry.kinds("family")
    if name not in known:
        raise SpecError(f"model.family: no family is called {name!r}; {registry.nearest(name, known)}")
    if name == "llava" and not any((folder / file).is_file() for file in PROCESSORS):  # as what TinySpec exports
        tower = config.vision_config
        views = {**views, "image": {"size": tower.image_size, "patch": tower.patch_size, **views.get("image", {})}}
    return get_family(name, tokenizer=tokenizer, checkpoint=folder, **views)


def native_family(
    config: NativeConfig, tokenizer: Any, views: dict[str, dict[str, Any]], processor: Path | None
) -> Family:
    """The family of a native model of this config; `views` win over what the config remembers. `processor` is a folder
    with the files of the vision tower's processor."""
    given: dict[str, dict[str, Any]] = {"image": {}, "video": {}, "audio": {}}
    vision = config.vision_config
    if vision is None or isinstance(vision, NavitConfig):
        name = "native_navit" if vision is not None and vision.drop else "native"
        if vision is not None:
            given["image"] = {"patch": vision.patch_size}
            given["image"] |= {"drop_mean": vision.drop} if vision.drop else {"merge": config.merge}
        processor = None
    else:
        name = "native_fixed"
        given["image"] = {"patch": vision.patch_size, "pool": config.merge}
        if processor is None or not (processor / "preprocessor_config.json").is_file():
            given["image"] |= {"size": vision.image_size, "mode": "squash"}
            if isinstance(vision, LatentConfig):
                given["image"] |= {"mean": HALF, "std": HALF}
    if config.audio_config is not None:
        hearing = Heard.model_validate(config.hearing or {})
        if config.audio_config.model_type not in (*WAVES, *spectrograms.KINDS):
            given["audio"] = {"n_mels": config.audio_config.num_mel_bins, "pool": hearing.factor}
            given["audio"] |= {"prosody": hearing.prosody}
            if not isinstance(config.audio_config, VarlenAudioConfig):
                given["audio"]["trim"] = False
    told: Any = {
        kind: {**values, **(config.views.get(kind) or {}), **views.get(kind, {})} for kind, values in given.items()
    }
    own = isinstance(vision, NavitConfig) and vision.view != "native"  # of pictures, which films are not made by
    has = {"image": vision is not None, "video": vision is not None and not own}
    has["audio"] = config.audio_config is not None
    for kind in views:
        if not has[kind]:
            raise SpecError(f"model.views.{kind}: this model takes no {kind}")
    if own:
        told["image"] = given["image"]
    sounds = {**(config.views.get("audio") or {}), **views.get("audio", {})}
    heard = "" if config.audio_config is None else config.audio_config.model_type
    if heard in (*WAVES, *spectrograms.KINDS):
        told["audio"] = {}  # of a view of their own
    family = get_family(name, tokenizer=_AnyToken(), checkpoint=processor, **told)
    if own:
        seen = {**(config.views.get("image") or {}), **views.get("image", {})}
        rule = presets.rule_of(vision, family.media["image"], seen)
        family = replace(family, media={**family.media, "image": rule})
    if isinstance(vision, NavitConfig) and vision.positions == "factorised":  # a table that ends
        bounded: dict[MediaKind, Any] = {
            kind: replace(rule, view=Bounded(view=rule.view, most=vision.max_grid)) if kind != "audio" else rule
            for kind, rule in family.media.items()
        }
        family = replace(family, media=bounded)
    if vision is not None:
        _check_views(config, family)
    if name == "native_fixed":
        _check_merge(config, family)
    kept = {kind: rule for kind, rule in family.media.items() if has[kind]}
    if heard in WAVES:
        kept["audio"] = replace(kept["audio"], view=_waveform(config.audio_config, hearing.factor, sounds))
    if heard in spectrograms.KINDS:
        made = spectrograms.view(config.audio_config, sounds, hearing.factor)
        kept["audio"] = replace(kept["audio"], view=made, join="concat")
    connector = connectors.read(config.connector)
    marks = fusion.read(config.fusion).marks  # a picture is one marker, and comes in elsewhere
    if vision is not None and (marks or not connector.merges):  # what a picture becomes is the connector's to say
        told = {
            "tokens": 1 if marks else connector.tokens,
            "at_most": not marks and connector.kind in connectors.AT_MOST,
        }
        pictured: tuple[MediaKind, ...] = ("image", "video")
        for kind in (each for each in pictured if each in kept):
            kept[kind] = replace(kept[kind], view=Resampled(view=kept[kind].view, **told))
    if config.video is not None:
        kept = planned.filmed(config, connector, kept, family.media, marks=marks)
    return replace(family, media=kept, tokenizer=tokenizer)


def _waveform(config: Any, pool: int, told: dict[str, Any]) -> Waveform:
    """The view of an encoder of waveforms; clips have mean 0 and variance 1 unless `views.audio` says otherwise."""
    sizes: Any = {"kernels": tuple(config.conv_kernel), "strides": tuple(config.conv_stride), "pool": pool}
    try:
        return Waveform(**{**told, **sizes})
    except TypeError as error:
        raise SpecError(f"model.views.audio: {error}; normalise and longest may be set") from error


def _check_views(config: NativeConfig, family: Family) -> None:
    """Raises SpecError for views that were told to make of a picture what the tower and the connector do not take."""
    wanted = {"patch": config.vision_config.patch_size, "merge": config.merge, "pool": config.merge}
    wanted |= {"temporal": 1, "extra": 0}
    keys = {"patch": "model.vision.patch", "merge": "model.vision.merge", "pool": "model.vision.merge"}
    for kind in ("image", "video"):
        for name, value in wanted.items():
            found = getattr(family.media[kind].view, name, value)
            if found != value:
                remedy = f"; {keys[name]} says it" if name in keys else ""
                raise SpecError(f"model.views.{kind}.{name}: {found}, but the model takes {value}{remedy}")


def _check_merge(config: NativeConfig, family: Family) -> None:
    """Raises SpecError where patches do not come to whole tokens; it is the pictures' side that counts, which may be
    other than the one that the tower was trained with."""
    sides: tuple[tuple[MediaKind, str], ...] = (("image", "side"), ("video", "size"))
    for kind, side in sides:
        pixels = getattr(family.media[kind].view, side)
        patches = pixels // config.vision_config.patch_size
        if patches % config.merge:
            raise SpecError(
                f"model.vision.merge: {config.merge} does not divide the {patches} x {patches} patches of pictures of "
                f"{pixels} pixels; set model.views.{kind}.size, or another merge"
            )


def folder_of_vision(spec: NativeSpec) -> Path | None:
    """The folder with the files of a native model's image processor, if it has any."""
    if spec.path is not None:
        return Path(spec.path)
    return folder_of(spec.vision, "model.vision") if isinstance(spec.vision, HfVisionSpec) else None


def media_tokens(spec: ModelSpec) -> tuple[str, ...]:
    """The special tokens that stand for a model's media and around them.

    >>> media_tokens(TinySpec())
    ('<image>',)
    """
    family = family_of(spec, _AnyToken())
    found: dict[str, None] = {}
    for rule in family.media.values():
        text = (rule.marker or "") + (rule.placeholder or "")
        found |= dict.fromkeys(_MARK.findall(text))
    return tuple(found)


def tokenizer_source(spec: ModelSpec) -> Path | None:
    """The folder of the model that a tokenizer would come from; None for a model from numbers."""
    if isinstance(spec, HfSpec):
        return folder_of(spec, "model")
    if isinstance(spec, NativeSpec):
        if spec.path is not None:
            return Path(spec.path)
        if spec.language.kind == "hf":
            return folder_of(spec.language, "model.language")
    return None


NAMES = {
    "image": ("image_token_id", "image_token_index"),
    "video": ("video_token_id", "video_token_index"),
    "audio": ("audio_token_id", "audio_token_index"),
}
MARKS = {
    "vision_start_token_id": ("<|vision_start|>", "<|vision_bos|>"),
    "vision_end_token_id": ("<|vision_end|>", "<|vision_eos|>"),
    "audio_start_token_id": ("<|audio_bos|>",),
    "audio_end_token_id": ("<|audio_eos|>",),
    "boi_token_index": ("<start_of_image>",),
    "eoi_token_index": ("<end_of_image>",),
}


def tell_tokens(config: Any, family: Family, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into a model's config which ids stand for media: what its own `forward` looks for."""
    for kind, rule in family.media.items():
        token = family.placeholder_id(rule)
        for name in NAMES[kind]:
            if hasattr(config, name):
                setattr(config, name, token)
    for name, marks in MARKS.items():
        ids = [tokenizer.convert_tokens_to_ids(mark) for mark in marks if mark in tokenizer.get_vocab()]
        if hasattr(config, name) and ids:
            setattr(config, name, ids[0])


def ends(model: Any, stream: StreamingDataset) -> list[int]:
    """Ids at which an answer ends: those of the model's generation config, and those by which the templates of a stream
    end them, which a model that was made for another template does not know."""
    own = model.generation_config.eos_token_id
    found: dict[int, None] = dict.fromkeys([own] if isinstance(own, int) else own or [])
    if stream.family is not None:
        for template in stream.templates:
            found |= dict.fromkeys(sorted(template.bind(stream.family.tokenizer).layout.stops))
    return list(found)


def tell_ends(model: Any, stream: StreamingDataset) -> None:
    """Write into a model's generation config where answers end that are taught by a stream."""
    found = ends(model, stream)
    if len(found) > 1:
        model.generation_config.eos_token_id = found


def with_template(spec: Any, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> Any:
    """A TrainSpec whose data, of its evaluation too, are `templated`."""

    def told(data: StreamSpec) -> StreamSpec:
        return templated(data, tokenizer, dataset)

    if told(spec.data) is spec.data:
        return spec
    evaluation = spec.evaluation
    if evaluation is not None:  # answers are asked for as they were taught
        evaluation = evaluation.model_copy(
            update={"data": {name: told(data) for name, data in evaluation.data.items()}}
        )
    return spec.model_copy(update={"data": told(spec.data), "evaluation": evaluation})


def templated(data: StreamSpec, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> StreamSpec:
    """The stream with the tokenizer's own chat template, where it has one, the stream names none, and the dataset
    begins with a conversation (captions have no turns)."""
    if "template" in data.model_fields_set or tokenizer.chat_template is None or not len(dataset):
        return data
    if not any(text.role in ("user", "assistant") for text in dataset.sample(0, media=False).texts):
        return data
    return data.model_copy(update={"template": "chat"})
