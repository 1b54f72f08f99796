"""Whisper: an encoder-decoder over log-mel frames; `input_features` [N, n_mels, 3000], nothing in the text."""

from __future__ import annotations

from mmdata.errors import SpecError
from mmdata.families import _mel
from mmdata.families._family import Family, MediaRule
from mmdata.families._settings import Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer


@register("family", "whisper")
def whisper(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `WhisperForConditionalGeneration`: `plan.tokens` are its encoder's positions, one sample per row.

    Audio parameters are those of `Mel`; the default is 80 bins and 30 seconds (large-v3 has 128 bins). What is longer
    is cut.
    """
    view = _mel.view_of(settings, tokens="whisper")
    if view.chunk:
        raise SpecError("audio: chunk: a text belongs to one clip of the encoder; cut long ones when you build")
    rule = MediaRule(view=view, placeholder=None, key=_mel.KEY)
    return Family(name="whisper", tokenizer=tokenizer, media={"audio": rule}, packs=False)
