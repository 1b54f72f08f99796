"""Kept samples as the page shows them: turns of texts and media in their order, within what one page may hold."""

from __future__ import annotations

from typing import Any

from mmdata.errors import DataError
from mmdata.report_page import text
from mmdata.report_page.films import filmstrip
from mmdata.report_page.pictures import thumbnail
from mmdata.report_page.sounds import sound
from mmdata.shards.dataset import Dataset
from mmdata.types import Media, Sample, Text

GRID_SIDE = 160
IN_TEXT_SIDE = 224
PICTURE_CHARACTERS = 1_800_000
CLIP_CHARACTERS = 300_000
"""Of data URIs on one page; beyond them examples are shown without."""
MOST_BYTES = 1 << 26
"""Larger media are not read for a preview."""
MOST_MEDIA = 6
"""Media of one sample that are shown."""
MOST_PARTS = 24
MOST_CHARACTERS = {"image": 280, "text": 700}
SAID = 420
"""Characters shown of a text: of those forms, and of all others."""


class Budget:
    """How many characters of pictures and of sound the page may still take."""

    def __init__(self, pictures: int = PICTURE_CHARACTERS, clips: int = CLIP_CHARACTERS) -> None:
        self.pictures, self.clips = pictures, clips

    def picture(self, data: bytes, side: int) -> dict[str, Any]:
        if self.pictures <= 0:
            return {"uri": "", "why": "no preview: the page is full"}
        made = thumbnail(data, side)
        self.pictures -= len(made.uri)
        return {"uri": made.uri, "width": made.width, "height": made.height, "why": made.why}

    def film(self, media: Media) -> dict[str, Any]:
        if self.pictures <= 0:
            return {"frames": (), "why": "no preview: the page is full"}
        made = filmstrip(media)
        self.pictures -= sum(len(frame.picture.uri) for frame in made.frames)
        return {"frames": made.frames, "why": made.why}

    def sound(self, data: bytes) -> dict[str, Any]:
        if self.pictures <= 0:
            return {"outline": "", "why": "no preview: the page is full"}
        made = sound(data, clip=self.clips > 0)
        self.pictures -= len(made.spectrogram.uri) + len(made.outline)
        self.clips -= len(made.clip)
        return {name: getattr(made, name) for name in ("outline", "spectrogram", "clip", "seconds", "peak", "why")}


def card(dataset: Dataset, position: int, form: str, budget: Budget) -> dict[str, Any]:
    """The sample at a position as turns `{role, trained, parts}`, where a part is a text or a medium with its preview.

    Raises DataError where what is shown has changed since the build."""
    sample = dataset.sample(position, media=False)
    most = MOST_CHARACTERS.get(form, SAID)
    shown = list(sample.parts[:MOST_PARTS])
    turns: list[dict[str, Any]] = []
    media = 0
    for at, part in enumerate(shown):
        if isinstance(part, Media):
            if media == MOST_MEDIA:
                continue
            media += 1
            made = preview(dataset, position, part, budget, GRID_SIDE if form == "image" else IN_TEXT_SIDE)
        else:
            made = {"kind": "text", "text": part.text, "most": most, "characters": len(part.text)}
        role, trained = _said_by(shown, at)
        if not turns or turns[-1]["role"] != role or turns[-1]["trained"] != trained:
            turns.append({"role": role, "trained": trained, "parts": []})
        turns[-1]["parts"].append(made)
    caption = "\n".join(part.text for part in sample.texts)
    task = sample.meta.get("task") if isinstance(sample.meta, dict) else None
    return {
        "key": sample.key,
        "task": task if isinstance(task, str) else "",
        "caption": caption,
        "characters": len(caption),
        "turns": turns,
        "more": _left_out(sample, media, len(shown)),
        "facts": facts(sample.media[0]) if sample.media else [],
        "first": next((part for turn in turns for part in turn["parts"] if part["kind"] != "text"), None),
    }


def _said_by(parts: list[Text | Media], at: int) -> tuple[str, bool]:
    """Whose turn a part belongs to and whether it is an answer that is trained on: a medium's own role, or that of the
    text after it (or before it, at the end)."""
    part = parts[at]
    if isinstance(part, Text):
        return part.role, part.train and part.role == "assistant"
    near = next((p for p in parts[at:] if isinstance(p, Text)), None)
    near = near or next((p for p in reversed(parts[:at]) if isinstance(p, Text)), None)
    role = part.role or (near.role if near else "")
    return role, bool(near and near.train and role == near.role == "assistant")


def _left_out(sample: Sample, media: int, parts: int) -> list[str]:
    """What of a sample has no room on its card."""
    told = []
    if (rest := len(sample.media) - media) > 0:
        told.append(f"{rest} more media")
    if (rest := sum(isinstance(part, Text) for part in sample.parts[parts:])) > 0:
        told.append(f"{rest} more texts")
    return told


def preview(dataset: Dataset, position: int, media: Media, budget: Budget, side: int) -> dict[str, Any]:
    """A medium of the sample at a position, with what it looks like or why that cannot be shown."""
    made: dict[str, Any] = {"kind": media.kind, "facts": facts(media), "uri": ""}
    if media.place is None:
        return {**made, "why": "its bytes were not kept"}
    if media.place.size > MOST_BYTES:
        return {**made, "why": f"no preview: {text.size(media.place.size)}"}
    data = dataset.read(position, media.place)
    if media.kind == "image":
        return {**made, "picture": budget.picture(data, side), "why": ""}
    if media.kind == "video":
        return {**made, **budget.film(_with(media, data))}
    return {**made, **budget.sound(data)}


def _with(media: Media, data: bytes) -> Media:
    return Media(kind=media.kind, data=data, packets=media.packets, height=media.height, width=media.width)


def facts(media: Media) -> list[str]:
    """A few facts of a medium in words."""
    told = []
    if media.height and media.width:
        told.append(f"{media.width}×{media.height}")
    if media.seconds:
        told.append(text.seconds(media.seconds))
    if media.fps:
        told.append(f"{media.fps:.3g} fps")
    if media.sample_rate and media.kind == "audio":
        told.append(f"{media.sample_rate / 1000:.4g} kHz")
    if media.channels and media.channels > 1:
        told.append("stereo" if media.channels == 2 else f"{media.channels} channels")
    if media.format:
        told.append(media.format)
    if media.place is not None:
        told.append(text.size(media.place.size))
    return told


def find(dataset: Dataset, keys: set[str], most: int = 1_000_000) -> dict[str, int]:
    """Positions of kept samples by key, among the first `most` of the dataset: one pass over the keys alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from mmdata.shards.index import Index

    found: dict[str, int] = {}
    wanted = pa.array(sorted(keys), pa.string())
    for entry in dataset.manifest.shards:
        if len(found) == len(keys) or entry.first >= most:
            break
        if entry.index is None:
            continue
        column = Index(dataset.path / entry.index, crc32c=entry.index_crc32c).column("key")
        rows = pc.indices_nonzero(pc.is_in(column, wanted)).to_pylist()
        found |= {column[row].as_py(): entry.first + row for row in rows}
    return found


def seen(dataset: Dataset, position: int, budget: Budget, side: int) -> dict[str, Any] | None:
    """What stands for a sample in a few square centimetres: its first medium's picture, middle frame or spectrogram, or
    its text. None where nothing can be shown."""
    sample = dataset.sample(position, media=False)
    words = " ".join(part.text for part in sample.texts)
    shown: dict[str, Any] = {"uri": "", "why": "", "text": words}
    if sample.media:
        try:
            made = preview(dataset, position, sample.media[0], budget, side)
        except DataError:
            return None
        picture = made.get("picture")
        if made["kind"] == "video" and made.get("frames"):
            frame = made["frames"][len(made["frames"]) // 2].picture
            picture = {"uri": frame.uri, "width": frame.width, "height": frame.height, "why": ""}
        elif made["kind"] == "audio" and made.get("outline"):
            spectrogram = made["spectrogram"]
            picture = {"uri": spectrogram.uri, "width": spectrogram.width, "height": spectrogram.height, "why": ""}
        if picture:
            return {**picture, "text": words}
        shown["why"] = made["why"]
    return shown if shown["why"] or words else None
