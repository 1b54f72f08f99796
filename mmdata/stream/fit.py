"""Samples that are too long: left out, their text cut, their media made smaller, or the run stopped; as planned, so
read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mmdata.errors import DataError, RunError
from mmdata.families._family import Family
from mmdata.pack import fit_overlong
from mmdata.stream.planned_media import Draw, MediaPlanner, Planned, together
from mmdata.stream.spec import StreamSpec
from mmdata.templates import Encoded, Template, truncate
from mmdata.types import Media, Sample, Text, Trim


@dataclass(frozen=True, slots=True)
class Fitting:
    """A sample that was too long and now fits: `text` tokens of text and its media; `outcome` is what it is counted
    by, `trim` what is left of its parts; `damaged` why its text cannot be read, which it then only holds the place of.
    """

    outcome: str
    text: int
    media: Planned
    trim: Trim | None = None
    damaged: str | None = None


def cut_text(
    sample: Sample, encoded: Encoded, planned: Sequence[Planned], family: Family, template: Template, spec: StreamSpec
) -> Fitting | DataError:
    """Whole exchanges dropped, then the end of an answer cut, until the sample fits. `planned[i]` is the plan of
    `encoded.media[i]`, which stays as it is or goes with its exchange."""
    assert spec.longest is not None, spec
    shorter = truncate(
        sample,
        encoded,
        [each.tokens for each in planned],
        max_length=spec.longest,
        tokenizer=family.tokenizer,
        template=template,
        keep=spec.truncate_keep,
    )
    if isinstance(shorter, DataError):
        return shorter
    by_id = {id(medium): each for medium, each in zip(encoded.media, planned, strict=True)}
    media = together([by_id[id(medium)] for medium in shorter.encoded.media])
    return Fitting("truncated_text", shorter.tokens - media.tokens, media, _trim(sample, shorter.sample))


def shrink(
    text: int, media: Sequence[Media], planner: MediaPlanner, spec: StreamSpec, draw: Draw | None, name: str
) -> Fitting | DataError:
    """Smaller plans for the largest media until the sample fits; its text stays."""
    assert spec.longest is not None, spec
    choices = [planner.smaller(media, at, draw) for at in range(len(media))]
    fitted = fit_overlong(
        text, [[each.tokens for each in plans] for plans in choices], spec.longest, "shrink_media", name=name
    )
    if fitted.outcome == "overlong":
        return overlong(name, text + sum(plans[0].tokens for plans in choices), spec)
    return Fitting("shrunk_media", text, together([plans[n] for plans, n in zip(choices, fitted.media, strict=True)]))


def overlong(name: str, tokens: int, spec: StreamSpec) -> DataError:
    """Why a sample is left out. Raises RunError where the policy is that none may be."""
    detail = f"{name}: {tokens} tokens, {spec.longest} fit"
    if spec.overlong == "error":
        raise RunError(
            f"{detail}; allow it to be left out, cut or shrunk (overlong: drop, truncate_text, shrink_media)"
        )
    return DataError("overlong", detail)


def trimmed(sample: Sample, trim: Trim | None) -> Sample:
    """What a plan leaves of a sample's parts."""
    if trim is None:
        return sample
    parts = [sample.parts[at] for at in trim.parts]
    if trim.cut is not None:
        last = parts[-1]
        assert isinstance(last, Text), sample.key
        parts[-1] = replace(last, text=last.text[: trim.cut])
    return replace(sample, parts=tuple(parts))


def _trim(sample: Sample, shorter: Sample) -> Trim:
    """`shorter` has parts of `sample` in their order, the last one cut or as it was."""
    places: list[int] = []
    cut = None
    at = 0
    for number, part in enumerate(shorter.parts):
        last = number + 1 == len(shorter.parts)
        while sample.parts[at] is not part:
            whole = sample.parts[at]
            if last and isinstance(part, Text) and isinstance(whole, Text) and _begins(whole, part):
                cut = len(part.text)
                break
            at += 1
        places.append(at)
        at += 1
    return Trim(tuple(places), cut)


def _begins(whole: Text, part: Text) -> bool:
    return whole.role == part.role and whole.train == part.train and whole.text.startswith(part.text)
