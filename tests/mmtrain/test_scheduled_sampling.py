"""Words that the model writes itself: the same packed or alone, of answers only, as a loop over tokens has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mmdata.collate import PackedCollator, PaddedCollator, model_inputs
from mmdata.labels import IGNORE
from mmtrain import attention
from mmtrain.certificate import adopt
from mmtrain.models import build, family_of
from mmtrain.models.spec import NativeSpec
from mmtrain.objective import losses, target_weights
from mmtrain.scheduled_sampling import ScheduledSamplingSpec, banned, drawn, keep_probability, mixed
from tests.families.processors import packed
from tests.mmtrain.tiny_models import make, samples, sound, words

SPEC = ScheduledSamplingSpec(decay="linear", k=0.5, c=0.1)
CLASS = "token_classes"


def batch_of(packs: Any, *, padded: bool = False) -> dict[str, Any]:
    collate: Any = PaddedCollator(pad_id=0) if padded else PackedCollator(pad_id=0)
    batch: dict[str, Any] = collate(packs)
    return batch


@pytest.fixture(scope="module")
def model() -> Any:
    made = make("llava")
    adopt(made, "varlen")
    return made.train()


def replaced(model: Any, batch: dict[str, Any], spec: ScheduledSamplingSpec, step: int = 0) -> torch.Tensor:
    strategy: Any = "varlen" if "cu_seq_lens_q" in batch else "single"
    weights = target_weights(batch, "token")
    before = batch["input_ids"].clone()
    found = mixed(model, batch, weights, strategy, spec, seed=3, step=step, never=banned(words()))
    assert torch.equal(batch["input_ids"], before)
    same = {name for name in batch if name != "input_ids"}
    assert all(found[name] is batch[name] for name in same)
    ids: torch.Tensor = found["input_ids"]
    return ids


def test_words_are_replaced_as_a_loop_would(model: Any) -> None:
    """Alone, packed and padded alike; labels, prompts, pictures and first words stay; special tokens never come."""
    packs = samples("llava")
    row = batch_of(packs)
    given, labels = row["input_ids"][0], row["labels"][0]
    ids = replaced(model, row, SPEC)[0]
    changed = ids != given
    assert 0 < int(changed.sum()) < int((labels != IGNORE).sum())
    assert not changed[labels == IGNORE].any()
    never = set(banned(words()).tolist())
    assert words().convert_tokens_to_ids("<image>") in never
    assert not never & set(ids[changed].tolist())

    alone = torch.cat([replaced(model, batch_of(pack), SPEC)[0] for pack in packs])
    assert torch.equal(alone, ids)
    padded = batch_of(packs, padded=True)
    mine = replaced(model, padded, SPEC)[padded["attention_mask"] == 1]
    assert torch.equal(mine, ids)

    expected = given.clone()
    at = 0
    for pack in packs:
        batch = batch_of(pack)
        logits = model(**model_inputs({name: v for name, v in batch.items() if name != "labels"})).logits[0]
        logits[:, list(never)] = -torch.inf
        places, _ = drawn(batch, target_weights(batch, "token"), 0.5, seed=3, step=0)
        for place in places.tolist():
            expected[at + place] = logits[place - 1].argmax()
        at += len(pack.input_ids)
    assert torch.equal(expected, ids)


def test_packed_and_alone_learn_the_same(model: Any) -> None:
    packs, never = samples("llava"), banned(words())

    def loss(given: Any) -> float:
        batch = batch_of(given)
        weights = target_weights(batch, "token")
        seen = mixed(model, batch, weights, "varlen", SPEC, seed=3, step=0, never=never)
        return float(losses(model, seen, weights)[0])

    whole = loss(packs)
    assert whole == pytest.approx(sum(loss(pack) for pack in packs), rel=1e-5)
    row = batch_of(packs)
    assert whole != pytest.approx(float(losses(model, row, target_weights(row, "token"))[0]), rel=1e-4)


def test_how_many_words_stay_follows_the_schedule(model: Any) -> None:
    """All while the probability is 1; none at 0, but the template's own tokens; other words at other steps."""
    row = batch_of(samples("llava"))
    always = ScheduledSamplingSpec(decay="linear", k=1, c=0.5)
    assert torch.equal(replaced(model, row, always, step=0), row["input_ids"])
    row[CLASS] = row[CLASS].clone()
    trained = torch.nonzero(row["labels"][0] != IGNORE)[:, 0]
    row[CLASS][0, trained[-1]] = 3  # the stop
    places, _ = drawn(row, target_weights(row, "token"), keep_probability(always, 2), seed=3, step=2)
    assert sorted(places.tolist()) == trained[:-1].tolist()
    first, second = (drawn(row, target_weights(row, "token"), 0.5, seed=3, step=step)[0].tolist() for step in (0, 1))
    assert first != second


def test_words_are_drawn_from_what_the_model_says(model: Any) -> None:
    """By the inverse of the distribution that it has, without special tokens."""
    batch = batch_of(samples("llava")[0])
    spec = SPEC.model_copy(update={"choice": "sample"})
    ids = replaced(model, batch, spec, step=9)[0]
    places, numbers = drawn(batch, target_weights(batch, "token"), 0.0, seed=3, step=9)
    logits = model(**model_inputs({name: v for name, v in batch.items() if name != "labels"})).logits[0].double()
    logits[:, banned(words())] = -torch.inf
    for place, number in zip(places.tolist(), numbers.tolist(), strict=True):
        reached = logits[place - 1].softmax(-1).cumsum(-1).detach().numpy()
        assert int(ids[place]) == int(np.searchsorted(reached, number, side="right"))


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"decay": "exponential", "k": 1}, "has k < 1"),
        ({"decay": "inverse_sigmoid", "k": 0.5}, "has k >= 1"),
        ({"decay": "linear", "k": 1}, "c: linear decay needs"),
    ],
)
def test_mistakes_are_told(told: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ScheduledSamplingSpec.model_validate(told)


def test_dummies_have_no_words(model: Any) -> None:
    batch = batch_of(samples("llava")[0])
    batch["keys"] = []
    assert torch.equal(replaced(model, batch, SPEC), batch["input_ids"])
    assert model.config._attn_implementation == attention.NAME


def test_the_model_that_writes_is_told_of_languages() -> None:
    """As it is when it learns: a sound in another language leads to other words."""
    small: dict[str, Any] = {"hidden": 32, "layers": 1, "heads": 4}
    audio = {**small, "languages": ["de", "fr"]}
    spec = NativeSpec.model_validate({"kind": "native", "vision": None, "audio": audio, "language": small})
    native = build(spec, words(), seed=0).train()
    torch.nn.init.normal_(native.base_model.hearing.language.weight, std=5.0)
    adopt(native, "varlen")
    said = ["<s>hear ", sound(16_000), " a tone that rises and rises</s>"]
    pack = packed(family_of(spec, words()), [said], trained=8)
    all_of_them = ScheduledSamplingSpec(decay="linear", k=1, c=1)
    found = {}
    for language in ("de", "fr"):
        row = batch_of([pack]) | {"fields": [{"language": language}]}
        found[language] = replaced(native, row, all_of_them, step=1)
        inputs = {name: value for name, value in model_inputs(row).items() if name != "labels"}
        with torch.no_grad():
            logits = native(**inputs, audio_languages=[language]).logits[0]
        logits[:, list(banned(words()))] = -torch.inf
        places, _ = drawn(row, target_weights(row, "token"), 0.0, seed=3, step=1)
        assert found[language][0, places].tolist() == logits[places - 1].argmax(-1).tolist()
    assert not torch.equal(found["de"], found["fr"])
