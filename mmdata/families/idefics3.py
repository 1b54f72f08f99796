"""Idefics3: an image split into numbered tiles; `pixel_values` [1, pictures, 3, S, S], `pixel_attention_mask`."""

from __future__ import annotations

from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Settings
from mmdata.families._splits import PLACEHOLDER, mask, read, tiles
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.views.tiles import SplitImage


@register("family", "idefics3")
def idefics3(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Idefics3ForConditionalGeneration`: 169 tokens for each tile of 364 pixels.

    Image parameters are those of `SplitImage`.
    """
    view = settings.view("image", SplitImage, read)
    rule = MediaRule(view=view, placeholder=PLACEHOLDER, key="pixel_values", join="row", layout=tiles, companions=mask)
    return Family(name="idefics3", tokenizer=tokenizer, media={"image": rule})
