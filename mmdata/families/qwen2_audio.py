"""Qwen2-Audio: 30 seconds of log-mel frames, a token for every four that hold sound."""

from __future__ import annotations

from mmdata.families import _mel
from mmdata.families._family import Family, Layout, MediaRule
from mmdata.families._settings import Settings
from mmdata.registry import register
from mmdata.templates import Tokenizer
from mmdata.types import MediaPlan

PLACEHOLDER, START, END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"


@register("family", "qwen2_audio")
def qwen2_audio(tokenizer: Tokenizer, settings: Settings) -> Family:
    """The family of `Qwen2AudioForConditionalGeneration`: `input_features` [N, 128, 3000], `feature_attention_mask`.

    Audio parameters are those of `Mel`; what is longer than 30 seconds is cut, or with `chunk: 480000` (and
    `overlap`) heard in pieces of as many samples, one after the other between the same marks.
    """
    view = _mel.view_of(settings, n_mels=128, tokens="qwen2_audio")
    rule = MediaRule(
        view=view,
        placeholder=PLACEHOLDER,
        marker=START + PLACEHOLDER + END,
        key=_mel.KEY,
        join=_mel.join(view),
        layout=between,
        companions=_mel.mask,
    )
    return Family(name="qwen2_audio", tokenizer=tokenizer, media={"audio": rule})


def between(plan: MediaPlan) -> Layout:
    """All placeholders between the audio marks."""
    return START, plan.tokens, END
