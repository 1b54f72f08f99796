"""Gathers what the page of a pack shows, from its plan and its arrays, and renders it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from mmdata.errors import DataError, SpecError
from mmdata.explain_page.pictures import seen
from mmdata.families._family import views
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.deal import Deal
from mmdata.stream.fit import trimmed
from mmdata.templates import encode
from mmdata.types import Item, Origin, Packed, Slot
from mmdata.views.augment import drawn

IGNORED = -100


def render(stream: StreamingDataset, deals: Sequence[Deal], *, title: str | None = None) -> bytes:
    """The packs of deals as one self-contained HTML page in UTF-8: no script, no request, pictures as data URIs.

    Raises SpecError for a stream without a family, which has no tokens, and for a rank that got no pack."""
    if stream.family is None:
        raise SpecError("family: a page shows tokens; give --family and --tokenizer")
    for deal in deals:
        if deal.pack is None:
            raise SpecError(f"rank: {stream.world.rank} gets no pack in step {deal.step}; choose another")
    packs = [_pack(stream, deal) for deal in deals]
    context = {"title": title, "rank": stream.world.rank, "ranks": stream.world.ranks, "packs": packs}
    return template().render(context).encode("utf-8", "xmlcharrefreplace")


def segments(
    stream: StreamingDataset, deal: Deal, packed: Packed, losses: Mapping[int, Sequence[float]] | None = None
) -> list[dict[str, Any]]:
    """What a page shows of each sample of a pack; with `losses`, of those samples that it has, by their numbers in the
    pack: of each the loss of every token, not a number where nothing is learned."""
    assert deal.pack is not None, deal
    masked = dict(zip(packed.masked_segments, (reason for _, reason in packed.masked), strict=True))
    bounds = itertools.pairwise(packed.cu_seqlens.tolist())
    return [
        _segment(stream, item, packed, start, stop, masked.get(number), None if losses is None else losses[number])
        for number, (item, (start, stop)) in enumerate(zip(deal.pack.items, bounds, strict=False))
        if losses is None or number in losses
    ]


def _pack(stream: StreamingDataset, deal: Deal) -> dict[str, Any]:
    packed = stream.read(deal)
    assert isinstance(packed, Packed), packed
    assert deal.pack is not None, deal
    bounds = packed.cu_seqlens.tolist()
    found = segments(stream, deal, packed)
    return {
        "step": deal.step,
        "pack": deal.pack,
        "row": stream.spec.row_tokens or bounds[-1],
        "trained": int((packed.labels != IGNORED).sum()),
        "segments": found,
        "arrays": [(name, "x".join(map(str, array.shape)), str(array.dtype)) for name, array in packed.media.items()],
        "bounds": bounds,
        "padding": [(start, stop) for start, stop in itertools.pairwise(bounds)][len(found) :],
    }


@functools.cache
def template() -> jinja2.Template:
    """The page, compiled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mmdata.explain_page", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def shown_media(
    stream: StreamingDataset, item: Item, masked: str | None = None
) -> tuple[Origin | None, list[dict[str, Any]]]:
    """Where a sample comes from; and of each of its media the plan, the pictures that the model sees as data URIs, and
    why there are none."""
    media = [{"plan": plan, "pictures": [], "why": masked or ""} for plan in item.media]
    origin = None
    try:
        sample = stream.datasets[item.dataset].sample(item.position)
        origin = sample.origin
        if masked is None:
            sample = trimmed(drawn(sample, stream.spec.augment, seed=stream.spec.seed, epoch=item.epoch), item.trim)
            assert stream.family is not None, item
            (encoded,) = encode([sample], stream.family.tokenizer, stream.templates[item.dataset])
            assert not isinstance(encoded, DataError), encoded
            chosen = views(stream.family, encoded.media)
            for shown, medium, plan, view in zip(media, encoded.media, item.media, chosen, strict=True):
                shown["pictures"] = seen(medium, plan, view, max_pixels=stream.spec.max_pixels)
    except DataError as error:
        for shown in media:
            shown["why"] = str(error)
    return origin, media


def _segment(
    stream: StreamingDataset,
    item: Item,
    packed: Packed,
    start: int,
    stop: int,
    masked: str | None,
    losses: Sequence[float] | None,
) -> dict[str, Any]:
    slots = [slot for slot in packed.slots if start <= slot.start < stop]
    origin, media = shown_media(stream, item, masked)
    return {
        "key": item.key,
        "dataset": stream.spec.sources[item.dataset].title,
        "position": item.position,
        "origin": origin,
        "start": start,
        "stop": stop,
        "trained": int((packed.labels[start:stop] != IGNORED).sum()),
        "masked": masked,
        "trim": item.trim,
        "runs": _runs(stream, packed, start, stop, slots, media, losses),
    }


def _runs(
    stream: StreamingDataset,
    packed: Packed,
    start: int,
    stop: int,
    slots: list[Slot],
    media: list[dict[str, Any]],
    losses: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Stretches of a segment: a medium's slot, or tokens that are alike trained or not, each with its numbers, and the
    losses of the segment's tokens where they are known."""
    assert stream.family is not None, slots
    tokenizer: Any = stream.family.tokenizer
    inside = np.full(stop - start, -1)
    for number, slot in enumerate(slots):
        inside[slot.start - start : slot.start - start + slot.length] = number
    positions = packed.position_ids if packed.position_ids.ndim == 1 else packed.position_ids[0]
    kinds = [(int(slot), bool(packed.labels[start + at] != IGNORED)) for at, slot in enumerate(inside)]
    runs: list[dict[str, Any]] = []
    at = start
    for (held, trained), group in itertools.groupby(kinds):
        count = len(list(group))
        if held >= 0:
            shown = media[held] if held < len(media) else {"plan": None, "pictures": [], "why": ""}
            runs.append({"slot": slots[held], "number": held + 1, **shown})
        else:
            tokens = [
                {
                    "weight": _weight(trained, float(packed.loss_weights[i])),
                    "text": _visible(tokenizer.decode([int(packed.input_ids[i])])),
                    "loss": None if losses is None or np.isnan(losses[i - start]) else float(losses[i - start]),
                    "about": f"{i} · position {positions[i]} · id {packed.input_ids[i]} · weight "
                    f"{packed.loss_weights[i]:g}",
                }
                for i in range(at, at + count)
            ]
            runs.append({"slot": None, "trained": trained, "tokens": tokens})
        at += count
    # Dual encoders have media without a place in the text.
    apart = [number for number in range(len(media)) if not (inside == number).any()]
    for number in apart:
        slot = Slot(kind=media[number]["plan"].kind, start=stop, length=0, tokens=media[number]["plan"].tokens)
        runs.append({"slot": slot, "number": number + 1, **media[number]})
    return runs


def _weight(trained: bool, weight: float) -> str:
    """How a trained token is marked that weighs other than 1 in the loss."""
    if not trained or weight == 1:
        return ""
    return "nothing" if weight == 0 else "light" if weight < 1 else "heavy"


def _visible(text: str) -> str:
    """Blanks and line ends as signs, or one could not see which token has them."""
    return text.replace("\n", "⏎\n").replace("\t", "⇥") if text.strip(" ") else "·" * max(1, len(text))
