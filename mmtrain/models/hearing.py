"""What is made of the states of an audio tower before the connector: which layers, how many vectors a second, and what
else is known of a sound.

A tower is ours (`varlen`), Whisper's encoder, or an encoder of waveforms of the Wav2Vec2 line, each of which makes 50
positions a second; or AST or CLAP's encoder, which make fewer. Everything is done sound by sound, so a sound comes out
the same whatever lies beside it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmdata.views.waveform import num_positions
from mmtrain.models.audio import VarlenAudio, halved
from mmtrain.models.configs import TimeFrequencyConfig, VarlenAudioConfig
from mmtrain.models.towers import spectrograms
from mmtrain.models.towers.time_frequency import TimeFrequency
from mmtrain.rows import borders

POSITIONS = 50
"""That a tower makes of a second, unless it is one of `spectrograms.KINDS`."""
WAVES = ("wav2vec2", "hubert", "wavlm")
"""Encoders of waveforms, by `model_type`; all others here are of log-mel, or of `spectrograms.KINDS`."""
OURS = (VarlenAudioConfig.model_type, TimeFrequencyConfig.model_type)
LANGUAGES = "audio_languages"
"""The batch's entry, a name for each sound."""


class HearingSpec(Model):
    """What stands between the audio tower and its connector."""

    hz: float = Field(25.0, gt=0, le=POSITIONS)
    """Vectors a second: 50 / hz is a whole number, so many positions become one, and what is left at the end of a sound
    is left out. An AST makes 10 positions a second, a CLAP 3.2, which is their default, and hz divides that."""
    reduce: Literal["pool", "stride", "convolution"] = "pool"
    """Their mean, the first of them, or a learned convolution as wide as its step."""
    states: Literal["last", "weighted"] = "last"
    """The tower's output, or a learned mean (softmax) of the states of all its layers, which begins even (SUPERB: Yang
    et al. 2021, arXiv 2105.01051, §3.2)."""
    prosody: bool = False
    """Add what a linear map makes of pitch (F0 by YIN, and whether there is one), loudness (dB of full scale) and
    duration, 50 times a second; for towers of log-mel. It begins at 0."""
    languages: tuple[str, ...] = ()
    """Add a learned vector for the language of a sound, which is the field `language` of its sample: carry it
    (`data.carry: [language]`). Others, and samples without, have a vector of their own. They begin at 0."""

    @model_validator(mode="after")
    def _once(self) -> HearingSpec:
        if len(set(self.languages)) < len(self.languages):
            raise ValueError("languages: a language twice")
        return self

    @property
    def factor(self) -> int:
        """Positions that become one vector.

        >>> HearingSpec(hz=12.5).factor
        4
        """
        return round(POSITIONS / self.hz)


class Heard(HearingSpec):
    """What a config remembers: the spec, and how many positions its tower makes of a second."""

    positions: float = POSITIONS

    @property
    def factor(self) -> int:
        return round(self.positions / self.hz)


def check(spec: HearingSpec, config: Any) -> None:
    """Raises SpecError for what a tower of this config cannot do."""
    if config.model_type not in ("whisper", *OURS, *WAVES, *spectrograms.KINDS):
        known = ", ".join(("whisper", *WAVES, *spectrograms.KINDS))
        raise SpecError(f"model.audio.path: a {config.model_type}; encoders of {known} are wanted")
    if spec.prosody and config.model_type in (*WAVES, *spectrograms.KINDS):
        takes = "waveforms" if config.model_type in WAVES else "spectrograms of one size"
        raise SpecError(f"model.audio.prosody: a {config.model_type} takes {takes}, which have no rows for it")
    if spec.states == "weighted" and config.model_type == spectrograms.CLAP:
        raise SpecError(f"model.audio.states: weighted, but a {config.model_type} makes its layers narrower; last")


def bound(spec: HearingSpec, positions: float) -> Heard:
    """The spec of a tower that makes so many positions a second, of which `hz` is all where it is not told and the
    tower is another than the usual ones. Raises SpecError for a rate that cannot be reached."""
    told = spec.model_dump(include=set(HearingSpec.model_fields))
    if positions != POSITIONS and "hz" not in spec.model_fields_set:
        told["hz"] = positions
    hz = told["hz"]
    if hz > positions or abs(positions / hz - round(positions / hz)) > 1e-9:
        rates = ", ".join(f"{positions / each:g}" for each in (1, 2, 4, 5, 8, 10))
        raise SpecError(f"model.audio.hz: {positions:g} / {hz:g} is no whole number; {rates} are reached")
    return Heard(**told, positions=positions)


class Hearing(nn.Module):
    """`HearingSpec`: the states of a tower to vectors of its width."""

    def __init__(self, spec: HearingSpec, config: Any) -> None:
        super().__init__()
        self.spec = spec
        width = int(config.hidden_size)
        if spec.states == "weighted":
            self.layer_weights = nn.Parameter(torch.zeros(int(config.num_hidden_layers) + 1))
        if spec.reduce == "convolution":
            self.convolution = nn.Conv1d(width, width, spec.factor, stride=spec.factor)
        if spec.prosody:
            self.prosody = nn.Linear(4, width)
            nn.init.zeros_(self.prosody.weight)
            nn.init.zeros_(self.prosody.bias)
        if spec.languages:
            self.language = nn.Embedding(len(spec.languages) + 1, width)
            nn.init.zeros_(self.language.weight)

    def forward(
        self, tower: nn.Module, features: torch.Tensor, frames: torch.Tensor, languages: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, list[int]]:
        """Log-mel [N, n_mels, F] or waveforms [N, samples], filled up, and how long each is, int64 [N]; or spectrograms
        of one size [M, frames, bins] and the positions of each sound -> vectors [T, width] of all sounds after each
        other, and how many each has."""
        mels = features[:, :-2] if self.spec.prosody else features
        states, lengths = heard(tower, mels, frames, every=self.spec.states == "weighted")
        if self.spec.states == "weighted":
            shares = self.layer_weights.softmax(0)
            hidden = sum(share * state for share, state in zip(shares, states, strict=True))
        else:
            hidden = states[-1]
        assert isinstance(hidden, torch.Tensor)
        if self.spec.prosody:
            hidden = hidden + self.prosody(prosodic(features[:, -2:], frames)).to(hidden.dtype)
        if self.spec.languages:
            ids = self._languages(languages, len(lengths), hidden.device)
            counts = torch.tensor(lengths, device=hidden.device)
            hidden = hidden + torch.repeat_interleave(self.language(ids), counts, dim=0).to(hidden.dtype)
        return self._reduced(hidden, lengths), [length // self.spec.factor for length in lengths]

    def _languages(self, names: Sequence[str] | None, count: int, device: torch.device) -> torch.Tensor:
        known = {name: number for number, name in enumerate(self.spec.languages)}
        given = [known.get(name, len(known)) for name in names or [""] * count]
        return torch.tensor(given, device=device)

    def _reduced(self, hidden: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        """Every `factor` positions of each sound to one; those left over at its end are left out."""
        factor = self.spec.factor
        whole = [sound[: len(sound) // factor * factor] for sound in hidden.split(list(lengths))]
        groups = torch.cat(whole).unflatten(0, (-1, factor))
        if self.spec.reduce == "pool":
            return groups.mean(1)
        if self.spec.reduce == "stride":
            return groups[:, 0]
        found: torch.Tensor = self.convolution(groups.transpose(1, 2))[..., 0]
        return found


def heard(
    tower: Any, features: torch.Tensor, frames: torch.Tensor, *, every: bool = False
) -> tuple[list[torch.Tensor], list[int]]:
    """The states [T, width] of a tower, sounds after each other and nothing of what fills them up: of its last layer,
    or of `every` one from its embeddings on; and the positions of each sound. Sounds of an encoder of waveforms go
    through it alone, or with others that are as long: its normalisation over time would see the filling."""
    if isinstance(tower, VarlenAudio | TimeFrequency):
        return tower.states(features, frames), halved(frames).tolist()
    if tower.config.model_type in spectrograms.KINDS:
        return spectrograms.states(tower, features, frames, every=every)
    if tower.config.model_type in WAVES:
        return _waves(tower, features, frames, every)
    lengths = halved(frames).tolist()
    output = tower(features.to(tower.dtype), output_hidden_states=every)
    states = output.hidden_states if every else [output.last_hidden_state]
    return [_cut(state, lengths) for state in states], lengths


def _cut(states: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    return torch.cat([sound[:length] for sound, length in zip(states, lengths, strict=True)])


def _waves(tower: Any, waves: torch.Tensor, samples: torch.Tensor, every: bool) -> tuple[list[torch.Tensor], list[int]]:
    each: list[list[torch.Tensor]] = [[] for _ in samples]
    for length in dict.fromkeys(samples.tolist()):
        which = torch.nonzero(samples == length)[:, 0].tolist()
        output = tower(waves[which, :length].to(tower.dtype), output_hidden_states=every)
        states = output.hidden_states if every else [output.last_hidden_state]
        for row, number in enumerate(which):
            each[number] = [state[row] for state in states]
    lengths = [len(states[0]) for states in each]
    return [torch.cat(layer) for layer in zip(*each, strict=True)], lengths


def prosodic(rows: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """Pitch in Hz (0: none) and loudness in dB, float [N, 2, F] at 100 a second, to four numbers of about 1 at 50 a
    second, float32 [T, 4]: whether there is a pitch, octaves above 100 Hz, loudness, and the logarithm of the sound's
    seconds."""
    found = []
    for (pitch, loud), count in zip(rows.float(), frames.tolist(), strict=True):
        pitch, loud = pitch[:count:2], loud[:count:2]
        voiced = (pitch > 0).float()
        octaves = torch.where(pitch > 0, (pitch.clamp(min=1) / 100).log2(), torch.zeros_like(pitch))
        seconds = torch.full_like(pitch, count / 100).log10()
        found.append(torch.stack([voiced, octaves, 1 + loud / 100, seconds], dim=1))
    return torch.cat(found)


def tokens(config: Any, spec: HearingSpec, frames: torch.Tensor) -> list[int]:
    """The vectors of each sound, as `Hearing` makes them: of a tower of this config, and sounds of so many frames (or
    samples, or positions)."""
    if config.model_type in spectrograms.KINDS:
        return [length // spec.factor for length in frames.tolist()]
    if config.model_type in WAVES:
        shape = tuple(config.conv_kernel), tuple(config.conv_stride)
        return [num_positions(samples, *shape) // spec.factor for samples in frames.tolist()]
    return [length // spec.factor for length in halved(frames).tolist()]


def spans(model: Any, batch: Mapping[str, Any]) -> list[tuple[int, int, int]]:
    """Of each sound of a batch its segment, its first token in the rows laid after each other, and how many it has. One
    that has none stands where the next begins."""
    body = model.base_model
    counts = tokens(body.config.audio_config, body.hearing.spec, batch["audio_frames"])
    places = torch.nonzero(batch["input_ids"].flatten() == body.config.audio_token_id)[:, 0].tolist()
    if len(places) != sum(counts):
        raise ValueError(f"{len(places)} placeholders for the {sum(counts)} vectors of {len(counts)} sounds")
    ends = borders(batch)[1:].tolist()
    found, at = [], 0
    for count in counts:
        first = places[min(at, len(places) - 1)] if places else 0
        found.append((bisect.bisect_right(ends, first), first, count))
        at += count
    return found


def told(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is told of a batch's sounds besides: of each, its language. Nothing for models without."""
    hearing = getattr(getattr(model, "base_model", None), "hearing", None)
    if not isinstance(hearing, Hearing) or not hearing.spec.languages or batch.get("audio_frames") is None:
        return {}
    fields = batch.get("fields") or []
    named = [str(each.get("language", "")) for each in fields]
    return {LANGUAGES: [named[segment] if named else "" for segment, _, _ in spans(model, batch)]}
