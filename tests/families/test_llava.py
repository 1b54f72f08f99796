"""The llava row against the model it describes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmdata.errors import DataError, SpecError
from mmdata.families import get_family
from mmdata.families._family import expand, filler, plan_media
from mmdata.templates import MEDIUM, Encoded
from mmdata.types import Media, Slot, Span
from mmtrain.models import build
from mmtrain.models.spec import TinySpec, TowerSpec
from tests.tokenizer_fixture import small_tokenizer

IMAGE = Media(kind="image", height=90, width=70)


def test_the_model_makes_as_many_features_as_are_planned() -> None:
    tokenizer = small_tokenizer()
    for size, patch in [(56, 14), (28, 14), (60, 14), (64, 8)]:
        family = get_family("llava", tokenizer=tokenizer, image={"size": size, "patch": patch})
        (plan,) = plan_media(family, [IMAGE])
        spec = TinySpec(image_size=size, patch_size=patch, vision=TowerSpec(hidden=16), language=TowerSpec(hidden=16))
        model = build(spec, tokenizer, seed=0)
        features = model.get_image_features(torch.zeros(1, *plan.shape)).pooler_output
        assert sum(len(f) for f in features) == plan.tokens, (size, patch)
        assert model.config.image_token_id == family.placeholder_id(family.media["image"])


def test_expansion_moves_spans_and_finds_slots() -> None:
    family = get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})
    plans = plan_media(family, [IMAGE, IMAGE])
    image = family.placeholder_id(family.media["image"])
    encoded = Encoded(ids=[1, MEDIUM, 5, MEDIUM, 6, 2], spans=(Span(2, 3), Span(4, 6, 0.5)), media=(IMAGE, IMAGE))
    segment = expand(family, encoded, plans)
    assert segment.ids.tolist() == [1, *[image] * 4, 5, *[image] * 4, 6, 2]
    assert segment.ids.dtype == np.int32
    assert segment.spans == (Span(5, 6), Span(10, 12, 0.5))
    assert segment.slots == (
        Slot(kind="image", start=1, length=4, tokens=4),
        Slot(kind="image", start=6, length=4, tokens=4),
    )


def test_a_filler_has_the_planned_length_and_media() -> None:
    family = get_family("llava", tokenizer=small_tokenizer(), image={"size": 28})
    plans = plan_media(family, [IMAGE])
    segment = filler(family, 9, plans)
    assert len(segment.ids) == 9
    assert (segment.ids == family.placeholder_id(family.media["image"])).sum() == 4
    assert segment.spans == ()


def test_refusals() -> None:
    tokenizer = small_tokenizer()
    with pytest.raises(SpecError, match="did you mean 'llava'"):
        get_family("lava", tokenizer=tokenizer)
    with pytest.raises(SpecError, match="did you mean 'size'"):
        get_family("llava", tokenizer=tokenizer, image={"siez": 3})
    with pytest.raises(DataError, match="takes no audio"):
        plan_media(get_family("llava", tokenizer=tokenizer), [Media(kind="audio")])
