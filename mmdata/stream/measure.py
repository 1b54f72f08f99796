"""Drawn samples to numbers: tokens, patches and plans of each, from cached text counts and facts, or from the texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mmdata import rng
from mmdata.collector import paused
from mmdata.errors import DataError, SpecError
from mmdata.families._family import Family
from mmdata.shards.dataset import Dataset
from mmdata.shards.retry import patiently
from mmdata.stream import fit
from mmdata.stream.draws import Draws
from mmdata.stream.forgotten import FORGOTTEN, Positions, among
from mmdata.stream.hold_out import OTHER_PART, other_part
from mmdata.stream.lengths import Lengths, order_of
from mmdata.stream.mix import joined as joined_draws
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
    reasons: dict[int, str] = field(default_factory=dict)
    """Why samples without tokens are left out."""
    outcomes: dict[int, str] = field(default_factory=dict)
    """What was done to samples to make them fit."""
    damaged: dict[int, str] = field(default_factory=dict)
    """Why the texts of samples could not be read that are planned all the same, to be masked in their place."""
    alike: bool = False
    """Whether each that is not left out is one token and nothing else, as without a family."""

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, numbers: Array) -> Measured:
        """Some of the samples, in this order."""
        places = numbers.tolist()
        return Measured(
            draws=self.draws.take(numbers),
            tokens=self.tokens[numbers],
            patches=self.patches[numbers],
            mel_frames=self.mel_frames[numbers],
            plans=[self.plans[i] for i in places],
            trims={new: self.trims[i] for new, i in enumerate(places) if i in self.trims},
            reasons={new: self.reasons[i] for new, i in enumerate(places) if i in self.reasons},
            outcomes={new: self.outcomes[i] for new, i in enumerate(places) if i in self.outcomes},
            damaged={new: self.damaged[i] for new, i in enumerate(places) if i in self.damaged},
        )


def joined(parts: Sequence[Measured]) -> Measured:
    """Measured samples one after the other."""
    firsts = [0]
    for part in parts:
        firsts.append(firsts[-1] + len(part))
    return Measured(
        draws=joined_draws([part.draws for part in parts]),
        tokens=np.concatenate([part.tokens for part in parts]),
        patches=np.concatenate([part.patches for part in parts]),
        mel_frames=np.concatenate([part.mel_frames for part in parts]),
        plans=[plans for part in parts for plans in part.plans],
        trims={f + i: trim for f, part in zip(firsts, parts, strict=False) for i, trim in part.trims.items()},
        reasons={f + i: reason for f, part in zip(firsts, parts, strict=False) for i, reason in part.reasons.items()},
        outcomes={f + i: what for f, part in zip(firsts, parts, strict=False) for i, what in part.outcomes.items()},
        damaged={f + i: reason for f, part in zip(firsts, parts, strict=False) for i, reason in part.damaged.items()},
    )


class _Found:
    """Measured samples as they are found."""

    def __init__(self, n: int) -> None:
        self.sizes = np.zeros((n, 3), np.int64)
        self.plans: list[tuple[MediaPlan, ...]] = [()] * n
        self.trims: dict[int, Trim] = {}
        self.reasons: dict[int, str] = {}
        self.outcomes: dict[int, str] = {}
        self.damaged: dict[int, str] = {}

    def add(self, at: int, found: fit.Fitting | DataError) -> None:
        if isinstance(found, DataError):
            self.reasons[at] = found.reason
            self.sizes[at], self.plans[at] = 0, ()
            return
        text = np.array([found.text, 0, 0])
        self.sizes[at], self.plans[at] = found.media.sizes + text, found.media.plans
        if found.outcome != "kept":
            self.outcomes[at] = found.outcome
        if found.trim is not None:
            self.trims[at] = found.trim
        if found.damaged is not None:
            self.damaged[at] = found.damaged

    def measured(self, draws: Draws) -> Measured:
        tokens, patches, mel_frames = self.sizes.T.copy()
        return Measured(
            draws=draws,
            tokens=tokens,
            patches=patches,
            mel_frames=mel_frames,
            plans=self.plans,
            trims=self.trims,
            reasons=self.reasons,
            outcomes=self.outcomes,
            damaged=self.damaged,
        )


def _alike(draw: Draw, order: Sequence[int]) -> Draw:
    """A draw for each of a sample's media, whichever of its places it stands in: both answers see the same."""
    return lambda place: draw(order[place])


def _check_pairs(planner: MediaPlanner) -> None:
    """Raises SpecError for a family that would see one medium in two ways."""
    family = planner.family
    if any(rule.several is not None for rule in family.media.values()):
        raise SpecError(
            f"pairs: {family.name} sees several media of a sample otherwise than one, and a pair repeats its"
        )


class Measure:
    """Measures samples of several datasets for one family; a pure function of data and spec, whoever asks.

    With text counts at hand (`Lengths`) no text is read, but where samples are augmented or their texts have to be
    cut. Without a family every sample counts as one token. What is `forgotten` of each dataset is left out unread.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        spec: StreamSpec,
        family: Family | None,
        templates: Sequence[Template],
        *,
        forgotten: Sequence[Positions] = (),
    ) -> None:
        self.datasets = datasets
        self.spec = spec
        self.family = family
        self.templates = templates
        self._forgotten = {number: positions for number, positions in enumerate(forgotten) if len(positions)}
        self._planner = None if family is None else MediaPlanner(family, spec)
        if self._planner is not None and spec.pairs:
            _check_pairs(self._planner)
        self._lengths: list[Lengths] = []
        if family is not None and spec.augment is None:
            self._lengths = [
                Lengths(dataset, family.tokenizer, template, spec.lengths)
                for dataset, template in zip(datasets, templates, strict=True)
            ]

    def __call__(self, draws: Draws) -> Measured:
        """The numbers of drawn samples. Raises RunError for one too long under `overlong: error`."""
        n = len(draws)
        gone, other = self._gone(draws), self._other(draws)
        reasons = dict.fromkeys(np.flatnonzero(other).tolist(), OTHER_PART[self.spec.part])
        reasons |= dict.fromkeys(np.flatnonzero(gone).tolist(), FORGOTTEN)
        gone |= other
        if self.family is None:
            zeros, tokens = np.zeros(n, np.int64), (~gone).astype(np.int64)
            return Measured(
                draws=draws,
                tokens=tokens,
                patches=zeros,
                mel_frames=zeros,
                plans=[()] * n,
                reasons=reasons,
                alike=True,
            )
        found = _Found(n)
        found.reasons |= reasons
        with paused():
            for number in np.unique(draws.dataset[~gone]).tolist():
                at = np.flatnonzero((draws.dataset == number) & ~gone)
                if self._lengths:
                    self._known(number, draws, at, found)
                else:
                    for i, fitting in zip(at.tolist(), self._read(number, draws, at), strict=True):
                        found.add(i, fitting)
        return found.measured(draws)

    def _gone(self, draws: Draws) -> npt.NDArray[np.bool_]:
        """Which draws are forgotten: bool [N]."""
        gone = np.zeros(len(draws), bool)
        for number, positions in self._forgotten.items():
            at = np.flatnonzero(draws.dataset == number)
            gone[at] = among(draws.position[at], positions)
        return gone

    def _other(self, draws: Draws) -> npt.NDArray[np.bool_]:
        """Which draws are of the part that the stream does not yield: bool [N]."""
        other = np.zeros(len(draws), bool)
        for number in np.unique(draws.dataset).tolist() if self.spec.hold_out else ():
            at = np.flatnonzero(draws.dataset == number)
            other[at] = other_part(self.datasets[number], draws.position[at], self.spec.hold_out, self.spec.part)
        return other

    def _known(self, number: int, draws: Draws, at: Array, found: _Found) -> None:
        """Samples of one dataset whose texts are counted. Media of equal facts are one object, and planned once."""
        assert self._planner is not None
        dataset, positions = self.datasets[number], draws.position[at]
        texts = self._lengths[number].at(positions)
        media = dataset.media_at(positions)
        for i, order in texts.orders.items():
            media[i] = tuple(media[i][medium] for medium in order)
        chance: dict[int, Draw] = {}
        if self._planner.draws:
            keys, epochs = dataset.keys_at(positions), draws.epoch[at].tolist()
            chance = {i: self._draw(keys[i], epochs[i]) for i, parts in enumerate(media) if parts}
            chance |= {i: _alike(chance[i], order) for i, order in texts.orders.items() if self.spec.pairs and order}
            media = [tuple(parts) if i in chance else parts for i, parts in enumerate(media)]
        _, firsts, which = np.unique(
            np.fromiter(map(id, media), np.int64, len(media)), return_index=True, return_inverse=True
        )
        if chance:  # each for itself
            firsts, which = np.arange(len(media)), np.arange(len(media))
        planned = [self._plan(media[i], chance.get(i)) for i in firsts.tolist()]
        sizes = np.array(
            [(0, 0, 0) if isinstance(each, DataError) else each.sizes for each in planned], np.int64
        ).reshape(-1, 3)[which]
        sizes[:, 0] += texts.tokens
        failed = np.array([isinstance(each, DataError) for each in planned], bool)[which]
        failed[[*texts.reasons, *texts.damaged]] = True
        over = np.zeros(len(at), bool) if self.spec.longest is None else sizes[:, 0] > self.spec.longest
        found.sizes[at] = sizes
        plans = [() if isinstance(each, DataError) else each.plans for each in planned]
        for place, one in zip(at.tolist(), which.tolist(), strict=True):
            found.plans[place] = plans[one]
        for i in np.flatnonzero(failed | over).tolist():
            place, each = int(at[i]), planned[which[i]]
            if i in texts.reasons:
                found.add(place, DataError(texts.reasons[i]))
            elif i in texts.damaged:
                found.add(place, self._damaged(number, int(positions[i]), texts.damaged[i], media[i], chance.get(i)))
            elif isinstance(each, DataError):
                found.add(place, each)
            else:
                text, position, epoch = int(texts.tokens[i]), int(positions[i]), int(draws.epoch[place])
                found.add(place, self._fitted(number, position, epoch, text, media[i], each, chance.get(i)))

    def _read(self, number: int, draws: Draws, at: Array) -> list[fit.Fitting | DataError]:
        """Of samples of one dataset whose texts have to be read: augmentation changes them and the pictures' sizes."""
        assert self.family is not None
        result: list[fit.Fitting | DataError] = []
        for start in range(0, len(at), CHUNK):
            some = at[start : start + CHUNK]
            places = list(zip(draws.position[some].tolist(), draws.epoch[some].tolist(), strict=True))
            read = [self._attempt(number, position, epoch) for position, epoch in places]
            samples = [sample for sample in read if isinstance(sample, Sample)]
            encoded = iter(encode(samples, self.family.tokenizer, self.templates[number]))
            for (position, epoch), sample in zip(places, read, strict=True):
                if isinstance(sample, DataError):
                    result.append(self._unread(number, position, epoch, sample.reason))
                    continue
                tokens = next(encoded)
                if isinstance(tokens, DataError):
                    result.append(tokens)
                    continue
                draw = self._draw(sample.key, epoch)
                if self.spec.pairs:
                    draw = _alike(draw, order_of(tokens, sample.media))
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
                sample = self._attempt(number, position, epoch)
                if isinstance(sample, DataError):  # damaged since its text was counted
                    return self._damaged(number, position, sample.reason, media, draw)
                (encoded,) = encode([sample], self.family.tokenizer, self.templates[number])
                if isinstance(encoded, DataError):
                    raise AssertionError(f"{name}: its text was counted and now is not encoded: {encoded}")
                read = sample, encoded
            each = [
                self._planner.of(view, plan)
                for view, plan in zip(self._planner.views(read[1].media), planned.plans, strict=True)
            ]
            return fit.cut_text(*read, each, self.family, self.templates[number], spec)
        return fit.overlong(name, text + planned.tokens, spec)

    def _attempt(self, number: int, position: int, epoch: int) -> Sample | DataError:
        """The sample without its media, or why it cannot be read."""
        dataset = self.datasets[number]
        try:
            sample = patiently(lambda: dataset.sample(position, media=False), f"{dataset.path}: position {position}")
        except DataError as error:
            return error
        return drawn(sample, self.spec.augment, seed=self.spec.seed, epoch=epoch)

    def _unread(self, number: int, position: int, epoch: int, reason: str) -> fit.Fitting | DataError:
        dataset, at = self.datasets[number], np.array([position])
        (media,), (key,) = dataset.media_at(at), dataset.keys_at(at)
        return self._damaged(number, position, reason, media, self._draw(key, epoch))

    def _damaged(
        self, number: int, position: int, reason: str, media: tuple[Media, ...], draw: Draw | None
    ) -> fit.Fitting | DataError:
        """The place of a sample whose text cannot be read: one token and its media, which facts describe, so that
        every row keeps as many media as it would have. A reader masks it."""
        planned = self._plan(media, draw)
        if isinstance(planned, DataError):
            return planned
        if self.spec.longest is not None and 1 + planned.tokens > self.spec.longest:
            name = f"{self.datasets[number].path}: position {position}"
            return DataError("overlong", f"{name}: {planned.tokens} tokens of media, {self.spec.longest} fit")
        return fit.Fitting("kept", 1, planned, damaged=reason)

    def _draw(self, key: str, epoch: int) -> Draw:
        """The chance of a sample's media. Of pairs it is the same in every epoch: what a reference was asked about once
        is what the model sees."""
        epoch = 0 if self.spec.pairs else epoch
        return lambda medium: rng.generator("view", self.spec.seed, epoch, key, medium)
