"""Answers of a model beside their media, prompts and references, as a page."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from mmdata.explain_page.page import shown_media
from mmdata.stream.dataset import StreamingDataset
from mmtrain.answers import Answer, prompts

NAME = "samples.html"


def render(
    title: str,
    values: Mapping[str, float],
    answers: Mapping[str, Sequence[Answer]],
    streams: Mapping[str, StreamingDataset],
) -> bytes:
    """What an evaluation found as one self-contained HTML page in UTF-8: no script, no request, pictures as data URIs,
    all texts escaped. Of each answer the media are those that the model saw."""
    parts = []
    for name, found in answers.items():
        shown = []
        for answer, (_, item, _) in zip(found, prompts(streams[name], len(found)), strict=True):
            _, media = shown_media(streams[name], item)
            shown.append({"answer": answer, "media": media})
        parts.append({"name": name, "shown": shown})
    page = template("samples.html.jinja").render({"title": title, "values": values, "parts": parts})
    return page.encode("utf-8", "xmlcharrefreplace")


@functools.cache
def template(name: str) -> Any:
    """A page of this package, compiled; its looks are those of the pages of packs."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("mmtrain", "."), jinja2.PackageLoader("mmdata.explain_page", ".")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
