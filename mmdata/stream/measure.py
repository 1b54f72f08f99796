"""Drawn samples to numbers: tokens, patches and plans of each, from cached text counts and facts, or from the texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmdata import rng
from mmdata.errors import DataError
from mmdata.families._family import Family
from mmdata.shards.dataset import Dataset
from mmdata.stream import fit
from mmdata.stream.draws import Draws
from mmdata.stream.lengths import Lengths
from mmdata.stream.planned_media import Draw, MediaPlanner, Planned
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Encoded, Template, encode
from mmdata.types import Media, MediaPlan, Sample, Trim
from mmdata.views.augment import drawn

Array = npt.NDArray[np.int64]
CHUNK = 1000
"""Samples whose texts are in memory at once."""
NOTHING = Planned((), 0, 0, 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measured:
    """N drawn samples as numbers. What is left out has no tokens."""

    draws: Draws
    tokens: Array
    """int64 [N]: all tokens of each sample, media included; 0 for those that are left out."""
    patches: Array
    """int64 [N]: of the vision tower."""
    mel_frames: Array
    """int64 [N]: of the audio tower."""
    plans: Sequence[tuple[MediaPlan, ...]]
    trims: dict[int, Trim] = field(default_factory=dict)
    """What is left of samples whose text was cut."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Samples without tokens, by reason."""
    changed: Counter[str] = field(default_factory=Counter)
    """Samples that were made to fit, by what was done."""

    def __len__(self) -> int:
        return len(self.tokens)


class Measure:
    """Measures samples of several datasets for one family; a pure function of data and spec, whoever asks.

    With text counts at hand (`Lengths`) no text is read, but where samples are augmented or their texts have to be
    cut. Without a family every sample counts as one token.
    """

    def __init__(
        self, datasets: Sequence[Dataset], spec: StreamSpec, family: Family | None, templates: Sequence[Template]
    ) -> None:
        self.datasets = datasets
        self.spec = spec
        self.family = family
        self.templates = templates
        self._planner = None if family is None else MediaPlanner(family, spec)
        self._lengths: list[Lengths] = []
        if family is not None and spec.augment is None:
            self._lengths = [
                Lengths(dataset, family.tokenizer, template, spec.lengths)
                for dataset, template in zip(datasets, templates, strict=True)
            ]

    def __call__(self, draws: Draws) -> Measured:
        """The numbers of drawn samples. Raises RunError for one too long under `overlong: error`."""
        n = len(draws)
        if self.family is None:
            zeros = np.zeros(n, np.int64)
            return Measured(draws=draws, tokens=zeros + 1, patches=zeros, mel_frames=zeros, plans=[()] * n)
        found: list[fit.Fitting | DataError | None] = [None] * n
        for number in np.unique(draws.dataset).tolist():
            at = np.flatnonzero(draws.dataset == number)
            each = self._known(number, draws, at) if self._lengths else self._read(number, draws, at)
            for i, fitting in zip(at.tolist(), each, strict=True):
                found[i] = fitting
        plans: list[tuple[MediaPlan, ...]] = [()] * n
        trims: dict[int, Trim] = {}
        left_out, changed = Counter[str](), Counter[str]()
        values = [(0, 0, 0)] * n
        for i, fitting in enumerate(found):
            assert fitting is not None, i
            if isinstance(fitting, DataError):
                left_out[fitting.reason] += 1
                continue
            media = fitting.media
            values[i] = (fitting.text + media.tokens, media.patches, media.mel_frames)
            plans[i] = media.plans
            if fitting.outcome != "kept":
                changed[fitting.outcome] += 1
            if fitting.trim is not None:
                trims[i] = fitting.trim
        tokens, patches, mel = np.array(values, np.int64).reshape(-1, 3).T.copy()
        return Measured(
            draws=draws,
            tokens=tokens,
            patches=patches,
            mel_frames=mel,
            plans=plans,
            trims=trims,
            left_out=left_out,
            changed=changed,
        )

    def _known(self, number: int, draws: Draws, at: Array) -> list[fit.Fitting | DataError]:
        """Of samples of one dataset whose texts are counted."""
        assert self._planner is not None
        dataset, positions = self.datasets[number], draws.position[at]
        texts = self._lengths[number].at(positions)
        media = dataset.media_at(positions)
        keys = dataset.keys_at(positions) if self._planner.draws else None
        counts = texts.tokens.tolist()
        epochs = draws.epoch[at].tolist()
        limit = self.spec.longest
        planned: dict[int, Planned | DataError] = {}  # by the object: media of equal facts are one
        result: list[fit.Fitting | DataError] = []
        for i, parts in enumerate(media):
            if i in texts.reasons:
                result.append(DataError(texts.reasons[i]))
                continue
            draw = self._draw(keys[i], epochs[i]) if keys is not None and parts else None
            if i in texts.orders:
                parts = tuple(parts[medium] for medium in texts.orders[i])
            if i in texts.orders or draw is not None:
                each = self._plan(parts, draw)
            else:
                found = planned.get(id(parts))
                each = planned[id(parts)] = self._plan(parts, None) if found is None else found
            if isinstance(each, DataError):
                result.append(each)
            elif limit is not None and counts[i] + each.tokens > limit:
                position = int(positions[i])
                result.append(self._fitted(number, position, epochs[i], counts[i], parts, each, draw))
            else:
                result.append(fit.Fitting("kept", counts[i], each))
        return result

    def _read(self, number: int, draws: Draws, at: Array) -> list[fit.Fitting | DataError]:
        """Of samples of one dataset whose texts have to be read: augmentation changes them and the pictures' sizes."""
        assert self.family is not None
        result: list[fit.Fitting | DataError] = []
        for start in range(0, len(at), CHUNK):
            some = at[start : start + CHUNK]
            places = list(zip(draws.position[some].tolist(), draws.epoch[some].tolist(), strict=True))
            samples = [self._sample(number, position, epoch) for position, epoch in places]
            encoded = encode(samples, self.family.tokenizer, self.templates[number])
            for (position, epoch), sample, tokens in zip(places, samples, encoded, strict=True):
                if isinstance(tokens, DataError):
                    result.append(tokens)
                    continue
                draw = self._draw(sample.key, epoch)
                text = len(tokens.ids) - len(tokens.media)
                each = self._plan(tokens.media, draw)
                if isinstance(each, DataError):
                    result.append(each)
                elif self.spec.longest is not None and text + each.tokens > self.spec.longest:
                    result.append(
                        self._fitted(number, position, epoch, text, tokens.media, each, draw, (sample, tokens))
                    )
                else:
                    result.append(fit.Fitting("kept", text, each))
        return result

    def _plan(self, media: tuple[Media, ...], draw: Draw | None) -> Planned | DataError:
        assert self._planner is not None
        if not media:
            return NOTHING
        try:
            return self._planner.plan(media, draw)
        except DataError as error:
            return error

    def _fitted(
        self,
        number: int,
        position: int,
        epoch: int,
        text: int,
        media: tuple[Media, ...],
        planned: Planned,
        draw: Draw | None,
        read: tuple[Sample, Encoded] | None = None,
    ) -> fit.Fitting | DataError:
        """What becomes of a sample that is too long."""
        assert self.family is not None
        assert self._planner is not None
        spec, name = self.spec, f"{self.datasets[number].path}: position {position}"
        if spec.overlong == "shrink_media":
            try:
                return fit.shrink(text, media, self._planner, spec, draw, name)
            except DataError as error:
                return error
        if spec.overlong == "truncate_text":
            if read is None:
                sample = self._sample(number, position, epoch)
                (encoded,) = encode([sample], self.family.tokenizer, self.templates[number])
                if isinstance(encoded, DataError):
                    raise AssertionError(f"{name}: its text was counted and now is not encoded: {encoded}")
                read = sample, encoded
            each = [
                self._planner.of(medium, view, plan)
                for medium, view, plan in zip(
                    read[1].media, self._planner.views(read[1].media), planned.plans, strict=True
                )
            ]
            return fit.cut_text(*read, each, self.family, self.templates[number], spec)
        return fit.overlong(name, text + planned.tokens, spec)

    def _sample(self, number: int, position: int, epoch: int) -> Sample:
        sample = self.datasets[number].sample(position, media=False)
        return drawn(sample, self.spec.augment, seed=self.spec.seed, epoch=epoch)

    def _draw(self, key: str, epoch: int) -> Draw:
        return lambda medium: rng.generator("view", self.spec.seed, epoch, key, medium)
