"""PaliGemma: a squashed picture before the text; image and prompt see each other, the answer what precedes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Checkpoint, Settings, pixels, square
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.views._picture import HALF
from mmdata.views.fixed import Fixed


@register("family", "paligemma")
def paligemma(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `PaliGemmaForConditionalGeneration`: positions from 1, `token_type_ids` 1 from the first trained
    token on.

    Image parameters are those of `Fixed`; the default is SigLIP-so400m/14 at 224 pixels, 256 tokens.
    """
    view = settings.view("image", Fixed, _read, size=224, patch=14, mode="squash", mean=HALF, std=HALF)
    return Family(
        name="paligemma",
        tokenizer=tokenizer,
        media={"image": MediaRule(view=view, placeholder="<image>", key="pixel_values")},
        first_position=1,
        type_ids="token_type_ids",
        token_types={"answer": 1},
    )


def _read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    found = checkpoint.media["image"]
    return {**pixels(found), **square(found), "patch": checkpoint.vision.get("patch_size")}
