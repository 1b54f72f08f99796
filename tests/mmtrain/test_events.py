"""Sound events: their metrics against brute force, the head against DCASE's formula, packed as apart, through a run."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from examples.learn import sounds
from mmdata import StreamingDataset, build
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, SpecError
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed
from mmtrain import sft
from mmtrain.event_metrics import Event, counted, events_of, f1, frames_of
from mmtrain.models import build as build_model
from mmtrain.models import family_of
from mmtrain.models.heads.actions import ActionsSpec
from mmtrain.models.heads.events import EventsHead, EventsSpec, told
from mmtrain.models.heads.two_stream import TwoStreamSpec
from mmtrain.models.spec import NativeSpec
from tests.mmtrain.test_grounding import stepped, words

LEARN = Path(__file__).parents[2] / "examples" / "learn"
EVENT = st.builds(
    lambda start, length, label: Event(start / 10, (start + length) / 10, label),
    st.integers(0, 12),
    st.integers(1, 12),
    st.sampled_from("ab"),
)


@given(st.lists(EVENT, max_size=4), st.lists(EVENT, max_size=4))
@settings(deadline=None, max_examples=60)
def test_as_many_pairs_are_hits_as_can_be(found: list[Event], wanted: list[Event]) -> None:
    def fits(one: Event, other: Event) -> bool:
        near = abs(one.onset - other.onset) <= 0.2 + 1e-9
        late = abs(one.offset - other.offset) <= max(0.2, 0.2 * (other.offset - other.onset)) + 1e-9
        return one.label == other.label and near and late

    few, many = (found, wanted) if len(found) <= len(wanted) else (wanted, found)
    most = 0
    for order in itertools.permutations(range(len(many)), len(few)):
        pairs = [(few[i], many[j]) if few is found else (many[j], few[i]) for i, j in enumerate(order)]
        most = max(most, sum(fits(one, other) for one, other in pairs))
    counts = counted(found, wanted)
    assert counts == (most, len(found) - most, len(wanted) - most)
    assert f1(*counted(wanted, wanted)) == 1


@given(st.lists(st.lists(st.booleans(), min_size=2, max_size=2), min_size=1, max_size=12))
@settings(deadline=None, max_examples=40)
def test_frames_and_events_are_each_others(active: list[list[bool]]) -> None:
    frames = np.array(active, np.float32)
    events = events_of(frames, ["a", "b"], 10.0)
    assert np.allclose(frames_of(events, ["a", "b"], len(frames), 10.0), frames, atol=1e-5)
    joined = events_of(frames, ["a", "b"], 10.0, gap=10.0)
    assert len(joined) == int(frames.any(0).sum()), "one of each class that is heard"


def test_a_clip_is_heard_as_dcases_baseline_hears_it() -> None:
    head = EventsHead(EventsSpec(classes=("a", "b", "c"), hidden=8), 6)
    states = torch.randn(11, 6)
    logits, clip = head(states)
    body = head.body(states)
    strong = torch.sigmoid(head.frames(body))
    soft = torch.clamp(torch.softmax(head.weights(body), dim=-1), min=1e-7, max=1)
    assert torch.allclose(clip, (strong * soft).sum(0) / soft.sum(0))
    assert torch.allclose(logits.sigmoid(), strong)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of clips, as the recipes have it."""
    root = tmp_path_factory.mktemp("sounds")
    sounds.main([str(root), "--train", "8", "--heldout", "1"])
    given = ["--set", f"source.path={root}/sounds/train.jsonl", "--output", str(root / "data"), "--quiet"]
    assert build.main(["--spec", str(LEARN / "build.yaml"), *given]) == 0
    return root / "data"


MODEL: dict[str, Any] = {
    "kind": "native",
    "vision": None,
    "audio": {"hidden": 16, "layers": 1, "heads": 2, "mels": 20},
    "language": {"hidden": 16, "layers": 1, "heads": 2},
    "heads": {"events": {"classes": list(sounds.SOUNDS), "hidden": 16}},
}


def test_a_head_learns_packed_as_apart(played: Path) -> None:
    spec, tokenizer = NativeSpec.model_validate(MODEL), words()
    model, family = build_model(spec, tokenizer, seed=0), family_of(spec, tokenizer)

    def packs(**more: Any) -> list[Packed]:
        own = {"dataset": str(played), "template": "basic", "carry": ("events",), "shuffle": "none", **more}
        stream = StreamingDataset(StreamSpec.model_validate(own), family=family)
        return [pack for pack in stream if isinstance(pack, Packed)]

    collate, together, apart = PackedCollator(), packs(max_length=2048), packs(packing="none", batch_rows=1)
    model.eval()
    one, other = (stepped(model, [collate(each) for each in some], "sound") for some in ([together], apart))
    assert one == pytest.approx(other, abs=1e-5)
    assert one["sound"] == len(apart) == 8
    assert min(one["event_frames"], one["event_clip"], one["event_missed"] + one["event_hits"]) > 0
    batch = collate(together)
    weak = [{"event_labels": [event[2] for event in fields["events"]]} for fields in batch["fields"]]
    names_alone = stepped(model, [{**batch, "fields": weak}], "sound")
    assert names_alone["event_clip"] == pytest.approx(one["event_clip"], abs=1e-6)
    assert names_alone["event_frames"] == 0
    assert stepped(model, [{**batch, "fields": [{}] * 8}], "sound")["sound"] == 0
    with pytest.raises(DataError, match="onset, offset, label"):
        told({"events": [[1.0, "beep"]]})


def test_an_evaluation_counts_events(played: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"dataset": str(played), "template": "basic", "max_length": 512, "carry": ["events"]}
    config = {"data": {**data, "epochs": None}, "model": MODEL, "output": str(tmp_path / "run"), "steps": 1}
    config |= {"tokenizer": {"vocab_size": 300}, "global_batch": 1, "evaluation": {"data": {"clips": data}}}
    (tmp_path / "run.json").write_text(json.dumps(config))
    assert sft.main(["--config", str(tmp_path / "run.json")]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    counts = [found[f"clips/aux/event_{name}"] for name in ("hits", "false", "missed")]
    assert found["clips/event_f1"] == pytest.approx(f1(*counts))
    assert found["clips/aux/event_frames"] > 0


class Refused(TorchFunctionMode):
    """What autocast refuses on CUDA, refused here too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.binary_cross_entropy and torch.is_autocast_enabled("cpu"):
            raise RuntimeError("binary_cross_entropy is unsafe to autocast")
        return func(*args, **(kwargs or {}))


def test_it_learns_under_autocast(played: Path) -> None:
    """On CUDA too, where autocast takes no cross-entropy of probabilities."""
    spec, tokenizer = NativeSpec.model_validate(MODEL), words()
    model = build_model(spec, tokenizer, seed=0)
    told = {"dataset": str(played), "template": "basic", "carry": ("events",), "max_length": 2048}
    own = StreamSpec.model_validate(told)
    packs = StreamingDataset(own, family=family_of(spec, tokenizer))
    batch = PackedCollator()([pack for pack in packs if isinstance(pack, Packed)][:2])
    with Refused(), torch.autocast("cpu", torch.bfloat16):
        assert stepped(model, [batch], "sound")["event_clip"] > 0


def test_a_model_that_hears_nothing_has_no_such_head() -> None:
    deaf = {**MODEL, "audio": None, "vision": {"hidden": 16, "layers": 1, "heads": 2}}
    with pytest.raises(SpecError, match="hears nothing"):
        build_model(NativeSpec.model_validate(deaf), words(), seed=0)


@pytest.mark.parametrize("spec", [EventsSpec, ActionsSpec, TwoStreamSpec])
def test_a_class_has_one_name(spec: Any) -> None:
    with pytest.raises(ValidationError, match="a class is named twice"):
        spec(classes=("a", "b", "a"))
