"""What a model may be told to be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from mmdata.spec import Model, OutputPath, from_here, runtime
from mmtrain.models.connectors import AudioConnector, Connector
from mmtrain.models.connectors.merged import MlpSpec
from mmtrain.models.experts import ExpertsSpec
from mmtrain.models.fusion import EarlySpec, Fusion
from mmtrain.models.heads import HeadsSpec
from mmtrain.models.hearing import HearingSpec
from mmtrain.models.video import VideoSpec


def _located(value: str, info: ValidationInfo) -> str:
    """A local folder made absolute, relative to the folder of the spec file; anything else as it is."""
    base = (info.context or {}).get("base")
    try:
        path = Path(value).expanduser()
        path = path if path.is_absolute() or base is None else Path(base) / path
        local = path.is_dir() or value.startswith((".", "/", "~"))
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{value}: {error}") from error
    return str(path) if local else value


def _here(value: Any, info: ValidationInfo) -> Any:
    """A folder that a command line names is where the command runs; no folder there may be one of the hub."""
    found = from_here(value, info)
    return found if isinstance(found, str) and Path(found).is_dir() else value


SourcePath = Annotated[str, BeforeValidator(_here), AfterValidator(_located)]
"""A local folder (relative to the spec file), else the id of a repository on the Hugging Face hub: `org/name`."""


class Views(Model):
    """Parameters of the family's views by kind of media, which win over those of the model's processor files."""

    image: dict[str, Any] = Field(default_factory=dict)
    video: dict[str, Any] = Field(default_factory=dict)
    audio: dict[str, Any] = Field(default_factory=dict)

    def given(self) -> dict[str, dict[str, Any]]:
        """By kind, those that say something."""
        return {kind: values for kind, values in dict(self).items() if values}


class SourceSpec(Model):
    """Where a part's files lie."""

    path: SourcePath
    """A local folder with `config.json` and weights, or the id of a repository on the hub."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    local_files_only: bool = runtime(False)
    """Take a repository from the local cache or not at all."""
    random: bool = False
    """Build it from `config.json` alone, with random weights."""


class TowerSpec(Model):
    """A stack of transformer layers."""

    hidden: int = Field(..., ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class TinySpec(Model):
    """A LLaVA built from these numbers, with random weights: a CLIP tower, a two-layer projector, a Llama decoder."""

    kind: Literal["tiny"] = "tiny"
    family: Literal["llava"] = "llava"
    image_size: int = Field(56, ge=14)
    """Side of the square that every image becomes, in pixels."""
    patch_size: int = Field(14, ge=2)
    """Side of a patch; (image_size / patch_size)^2 tokens per image."""
    vision: TowerSpec = TowerSpec(hidden=64)
    language: TowerSpec = TowerSpec(hidden=128)


class HfSpec(SourceSpec):
    """A Hugging Face model: vision-language, audio-language, or a causal language model alone."""

    kind: Literal["hf"]
    family: str | None = None
    """How its media become tokens; by default what `model_type` in its `config.json` says."""
    views: Views = Views()


class NavitSpec(TowerSpec):
    """Our varlen tower: patches of pictures and frames at their own size, each seeing its own picture only."""

    kind: Literal["navit"] = "navit"
    hidden: int = Field(64, ge=8)
    patch: int = Field(16, ge=2)
    """Side of a patch in pixels."""
    merge: int | None = Field(None, ge=1)
    """So many patches by so many become one token; by default 2 for connectors that merge blocks, where nothing is
    dropped, else 1."""
    positions: Literal["rope", "factorised", "table", "bias"] = "rope"
    """2-D rotary; a learned table for rows and one for columns, added to the patches (NaViT); one table for both,
    resized to each picture (SigLIP 2); or a learned bias of each head for distances in rows and in columns."""
    max_grid: int = Field(256, ge=1)
    """Rows and columns that the tables of `factorised` and `table` hold (16 is SigLIP 2's), the first of no picture of
    more, which is left out. For `bias` distances that are told apart. On CUDA, `bias` takes pictures whose rows,
    columns and head width come to 256."""
    layer: int = Field(-1, le=-1)
    """Whose output is taken: -1 the last layer's, through the norm; -2 that of the layer before it (LLaVA), ..."""
    drop: float = Field(0.0, ge=0, lt=1)
    """Mean share of each picture's patches that are left out in training, drawn anew for each sample and epoch (NaViT);
    needs `merge: 1`."""
    mixup: float = Field(0.0, ge=0)
    """alpha of the Beta distribution by which, in training, a picture's features are mixed with those of the same
    picture at half the size, stretched over its grid; 0: never."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.drop and (self.mixup or self.positions == "table"):
            told = "mixup" if self.mixup else "positions: table"
            raise ValueError(f"drop: {self.drop} leaves no whole grids, which {told} wants; set drop: 0")
        if self.positions == "rope" and self.hidden % (4 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of 4 * heads = {4 * self.heads} for `rope`")
        if self.drop and self.merge not in (None, 1):
            raise ValueError(f"drop: {self.drop} leaves no whole blocks of {self.merge} x {self.merge}; set merge: 1")
        return self


class PatchesSpec(TowerSpec):
    """Another's tower of patches, of the sizes of ViT-B/16 unless others are told."""

    hidden: int = Field(768, ge=8)
    layers: int = Field(12, ge=1)
    heads: int = Field(12, ge=1)
    patch: int = Field(16, ge=2)
    layer: int = Field(-1, le=-1)
    """As `navit` has it."""


class NaflexSpec(PatchesSpec):
    """SigLIP 2's NaFlex tower from numbers: pictures of their own shape, `budget` patches at most."""

    kind: Literal["naflex"]
    inner: int = Field(3072, ge=1)
    """Width inside the MLPs."""
    budget: int = Field(256, ge=1)
    side: int = Field(16, ge=1)
    """Rows and columns of the table of positions, which is resized to each picture."""


class Pix2StructSpec(PatchesSpec):
    """Pix2Struct's encoder from numbers: pictures of their own shape, as many patches as `budget` holds."""

    kind: Literal["pix2struct"]
    inner: int = Field(2048, ge=1)
    """Width inside the MLPs."""
    budget: int = Field(2048, ge=1)


class FuyuSpec(Model):
    """Fuyu: no tower, patches go to the connector as they are (take `linear`), with a line break after each row of
    them; pictures are made smaller only where they do not fit into `height` x `width`."""

    kind: Literal["fuyu"]
    patch: int = Field(30, ge=2)
    height: int = Field(1080, ge=2)
    width: int = Field(1920, ge=2)


class LatentSpec(Model):
    """A tokeniser of continuous tokens (`mmtrain.tokenize_images train`, `kind: kl`) in the tower's place: pictures are
    squares, and a cell of its grid is a patch. It is never trained."""

    kind: Literal["latent"]
    path: SourcePath
    """Its folder."""


class HfVisionSpec(SourceSpec):
    """Any Hugging Face vision tower of fixed size: CLIP, SigLIP, DINOv2, ViT, ...; and SigLIP 2's NaFlex tower and
    Pix2Struct's encoder, whose patches are packed. Its processor's files say how pictures become squares or patches."""

    kind: Literal["hf"]
    merge: int | None = Field(None, ge=1)
    """So many patches by so many become one token (pixel unshuffle); by default 2 for connectors that are nothing
    without (pixel_shuffle, patch_merger), else 1."""
    layer: int = Field(-1, le=-1)
    """Whose hidden states are taken: -1 the tower's output, -2 the layer before the last (LLaVA)."""


class VarlenAudioSpec(TowerSpec, HearingSpec):
    """Our varlen tower: Whisper's two convolutions and layers, for sound as long as it lasts."""

    kind: Literal["varlen"] = "varlen"
    hidden: int = Field(64, ge=8)
    mels: int = Field(80, ge=8)
    """Bins of the log-mel spectrogram."""


class TimeFrequencySpec(TowerSpec, HearingSpec):
    """Our tower over time and frequency: layers see a band of bins over all of the sound, then a moment over all bands,
    by turns; a moment is the learned mean of its bands."""

    kind: Literal["time_frequency"]
    hidden: int = Field(64, ge=8)
    layers: int = Field(2, ge=1)
    """Of each of the two."""
    mels: int = Field(80, ge=8)
    """Bins of the log-mel spectrogram,"""
    bands: int = Field(8, ge=1)
    """in so many bands."""

    @model_validator(mode="after")
    def _cuts(self) -> Self:
        if self.mels % self.bands:
            raise ValueError(f"bands: {self.bands} do not divide {self.mels} bins (mels)")
        return self


class HfAudioSpec(SourceSpec, HearingSpec):
    """The encoder of a Hugging Face Whisper model; Wav2Vec2, HuBERT or WavLM, which take waveforms, their own masking
    and layer dropout off; or AST, or the audio encoder of CLAP, which take spectrograms of one size, several of a
    longer sound (`views.audio.long`: chunk, trim or refuse)."""

    kind: Literal["hf"]


class TinyLanguageSpec(TowerSpec):
    """A Llama decoder from numbers."""

    kind: Literal["tiny"] = "tiny"
    hidden: int = Field(128, ge=8)
    kv_heads: int | None = Field(None, ge=1)
    """Heads of keys and values; as many as `heads` by default."""
    tie: bool = False
    """Whether the head is the embeddings."""


class HfLanguageSpec(SourceSpec):
    """Any Hugging Face causal language model; its tokenizer is the run's."""

    kind: Literal["hf"]


def _kind(default: str) -> Discriminator:
    def tag(value: Any) -> Any:
        return value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default)

    return Discriminator(tag)


Vision = Annotated[
    Annotated[NavitSpec, Tag("navit")]
    | Annotated[NaflexSpec, Tag("naflex")]
    | Annotated[Pix2StructSpec, Tag("pix2struct")]
    | Annotated[FuyuSpec, Tag("fuyu")]
    | Annotated[LatentSpec, Tag("latent")]
    | Annotated[HfVisionSpec, Tag("hf")],
    _kind("navit"),
]
Audio = Annotated[
    Annotated[VarlenAudioSpec, Tag("varlen")]
    | Annotated[TimeFrequencySpec, Tag("time_frequency")]
    | Annotated[HfAudioSpec, Tag("hf")],
    _kind("varlen"),
]
Language = Annotated[
    Annotated[TinyLanguageSpec, Tag("tiny")] | Annotated[HfLanguageSpec, Tag("hf")],
    _kind("tiny"),
]


class ModalityDropoutSpec(Model):
    """Share of the samples whose media of a kind are left out in a training pass, drawn for each sample anew by step
    and pack: what stands in their places is 0, so that words are learned without them. (ModDrop: Neverova et al. 2015,
    arXiv 1501.00102.)"""

    picture: float = Field(0.0, ge=0, lt=1)
    """Images and videos."""
    sound: float = Field(0.0, ge=0, lt=1)


class NativeSpec(Model):
    """Our compact composition: towers, connectors, a language model; each built from numbers or taken from a folder."""

    kind: Literal["native"]
    vision: Vision | None = NavitSpec()
    """null: takes no pictures and videos."""
    audio: Audio | None = VarlenAudioSpec()
    """null: takes no sound."""
    connector: Connector = MlpSpec()
    """What stands between the vision tower and the language model, and how many tokens a picture becomes."""
    audio_connector: AudioConnector = MlpSpec()
    """What stands between the audio tower and the language model: a token for each vector, `audio.hz` a second."""
    language: Language = TinyLanguageSpec()
    video: VideoSpec | None = None
    """What looks across the frames of a video, between the vision tower and the connector (an image is a video of one
    frame), and makes fewer of them; null: frames stay alone."""
    fusion: Fusion = EarlySpec()
    """Where what a picture shows meets the words: as tokens among them, or in layers between those of the language
    model."""
    experts: ExpertsSpec | None = None
    """null: every token goes through the MLPs of the language model."""
    heads: HeadsSpec = HeadsSpec()
    """What else is read off the language model's hidden states, with losses of its own: boxes and masks."""
    objective: Literal["language", "qformer", "contrastive"] = "language"
    """What is learned: the next token of the language model; which picture and which text are a pair, for fusion late
    on samples of one picture each (freeze `head` and `audio`); or, for a connector of kind qformer with `text`,
    BLIP-2's ITC, ITM and ITG on samples of one picture each, without the language model (freeze `language`, `head` and
    `audio` there)."""
    modality_dropout: ModalityDropoutSpec = ModalityDropoutSpec()
    """How often, in training, a sample goes without its pictures or sounds."""
    views: Views = Views()
    path: OutputPath | None = None
    """Folder of a native model that was saved or exported: its weights and config are taken, and of these keys only
    `views` and `objective` count."""

    @model_validator(mode="after")
    def _compares_what_it_has(self) -> Self:
        if self.objective != "language" and any(dict(self.modality_dropout).values()):
            raise ValueError(f"modality_dropout: objective: {self.objective} learns from pictures alone; leave it out")
        return self

    @model_validator(mode="after")
    def _sees_or_hears(self) -> Self:
        if self.vision is None and self.audio is None:
            raise ValueError("vision and audio are both null; use kind: hf for a language model alone")
        return self

    @model_validator(mode="after")
    def _sees_what_it_films(self) -> Self:
        if self.video is not None and self.vision is None and self.path is None:
            raise ValueError(f"video: {self.video.kind} is for frames, and vision is null; leave video out")
        return self

    @model_validator(mode="after")
    def _sees_what_it_fuses(self) -> Self:
        if self.fusion.marks and self.vision is None and self.path is None:
            raise ValueError(f"fusion: {self.fusion.kind} is for pictures, and vision is null; use early")
        return self

    @model_validator(mode="after")
    def _compares_what_meets_late(self) -> Self:
        if self.path is None and (self.fusion.kind == "late") != (self.objective == "contrastive"):
            raise ValueError("fusion: {kind: late} and objective: contrastive go together")
        return self

    @model_validator(mode="after")
    def _has_text_to_compare(self) -> Self:
        if self.objective == "qformer" and self.path is None and getattr(self.connector, "text", None) is None:
            raise ValueError("objective: qformer needs connector: {kind: qformer, text: {}}")
        return self


ModelSpec = Annotated[
    Annotated[TinySpec, Tag("tiny")] | Annotated[HfSpec, Tag("hf")] | Annotated[NativeSpec, Tag("native")],
    _kind("tiny"),
]
"""Told apart by `kind`; without one it is `tiny`."""
