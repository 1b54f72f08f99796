"""Heads of videos through the door: packed as apart, frames put together again, a run that resumes, is measured and
exported; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from examples.learn import scenes
from mmdata import StreamingDataset, build
from mmdata.collate import PackedCollator
from mmdata.errors import DataError, SpecError
from mmdata.shards.dataset import open_dataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed
from mmtrain import checkpoint, export, loop, sft
from mmtrain.models import build as build_model
from mmtrain.models import family_of
from mmtrain.models.heads.actions import actions_of
from mmtrain.models.heads.films import films, frames
from mmtrain.models.heads.offset import OffsetHead, OffsetSpec, late_by, stepped
from mmtrain.models.heads.quality import quality_of
from mmtrain.models.native import NativeForConditionalGeneration
from mmtrain.models.spec import NativeSpec
from tests.mmtrain.test_grounding import stepped as summed
from tests.mmtrain.test_grounding import words

ROOT = Path(__file__).parents[2]
CARRY = ("actions", "action", "quality", "offset")
HEADS: dict[str, Any] = {
    "actions": {"classes": ["red", "blue"], "hidden": 16, "layers": 1, "heads": 2},
    "offset": {"most": 4, "hz": 4, "width": 8},
    "quality": {"hidden": 8},
    "two_stream": {"classes": ["drifts left", "drifts right"], "width": 4},
}
MODEL: dict[str, Any] = {
    "kind": "native",
    "vision": {"hidden": 16, "layers": 1, "heads": 2, "patch": 8, "merge": 2},
    "audio": {"hidden": 16, "layers": 1, "heads": 2, "mels": 20, "hz": 10},
    "video": {"kind": "local", "layers": 1, "heads": 2, "window": 1},
    "language": {"hidden": 16, "layers": 1, "heads": 2},
    "views": {"video": {"fps": 4, "max_frames": 16, "min_pixels": 1024, "max_pixels": 1024}},
    "heads": HEADS,
}
TERMS = ("action_spans", "offset", "quality", "two_stream")


def built(root: Path, train: int, heldout: int) -> Path:
    """Both parts of the clips as datasets."""
    scenes.main([str(root), "--train", str(train), "--heldout", str(heldout)])
    for name in ("train", "heldout"):
        told = ["--set", f"source.path={root}/scenes/{name}.jsonl", "--output", f"{root}/data/{name}", "--quiet"]
        assert build.main(["--spec", str(ROOT / "examples" / "learn" / "build.yaml"), *told]) == 0
    return root / "data"


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("scenes"), 6, 2)


def packs(data: Path, family: Any, **more: Any) -> list[Packed]:
    own = {"dataset": str(data), "template": "basic", "carry": CARRY, "shuffle": "none", **more}
    stream = StreamingDataset(StreamSpec.model_validate(own), family=family)
    return [pack for pack in stream if isinstance(pack, Packed)]


def test_heads_learn_packed_as_apart_and_see_whole_frames(filmed: Path) -> None:
    spec, tokenizer = NativeSpec.model_validate(MODEL), words()
    model, family, collate = build_model(spec, tokenizer, seed=0).eval(), family_of(spec, tokenizer), PackedCollator()
    together = collate(packs(filmed / "train", family, max_length=2048))
    apart = [collate([pack]) for pack in packs(filmed / "train", family, packing="none", batch_rows=1)]
    assert len(apart) == 6
    one, other = (summed(model, some, "actions") for some in ([together], apart))
    assert one == pytest.approx(other, abs=1e-4)
    assert one["actions"] == 6
    assert min(one[name] for name in TERMS) > 0
    assert one["action_hits"] + one["action_missed"] > 0
    # The same pixels as those that were decoded, in their places.
    videos, pixels = films(model, together), frames(model, together)
    assert [film.segment for film in videos] == list(range(6))
    assert [film.seconds.tolist() for film in videos] == [[n / 4 for n in range(16)]] * 6
    dataset = open_dataset(str(filmed / "train"))
    assert [str(key) for key in together["keys"][:6]] == [sample.key for sample in map(dataset.__getitem__, range(6))]
    assert pixels[0].shape == (3, 32, 32)
    lit = torch.stack(pixels[:16]).amax((1, 2, 3))
    begin, end, _ = together["fields"][0]["actions"][0]
    inside = [begin <= n / 4 <= end for n in range(16)]
    assert lit[inside].min() > lit[: inside.index(True)].max(), "brighter where the sample says so"
    edges = torch.stack(pixels[:16])
    assert float((edges[..., 7] - edges[..., 8]).abs().mean()) < 0.5, "patches are in their places"
    nothing = summed(model, [{**together, "fields": [{}] * 6}], "actions")
    assert nothing["actions"] == nothing["quality"] == nothing["two_stream"] == 0
    assert nothing["offset"] > 0, "sounds are in time unless a sample says another"


def test_a_run_resumes_is_measured_and_exported(
    filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command: losses in the log, measures in the evaluation, the same weights after a stop, and export."""
    data = {"template": "basic", "max_length": 512, "carry": CARRY}
    config: dict[str, Any] = {"data": {**data, "dataset": str(filmed / "train"), "epochs": None}, "model": MODEL}
    config |= {"tokenizer": {"vocab_size": 300}, "global_batch": 1, "steps": 3, "checkpoint": {"every": 2}}
    config |= {"evaluation": {"data": {"clips": {**data, "dataset": str(filmed / "heldout")}}}}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(config | {"output": str(tmp_path / "whole")}))
    assert sft.main(["--config", str(file)]) == 0, capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(step[f"aux/{name}"] > 0 for step in steps for name in TERMS)
    last = json.loads((tmp_path / "whole" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["clips/action_f1"] <= 1
    assert {f"clips/aux/{name}" for name in ("offset_right", "offset_seconds", "quality_off", "two_stream_right")} <= {
        *last
    }
    real = loop.advance

    def until(job: Any, batches: list[Any], *take: Any) -> Any:
        if job.step == 2:
            raise KeyboardInterrupt
        return real(job, batches, *take)

    cut = ["--config", str(file), "--set", f"output={tmp_path / 'cut'}"]
    monkeypatch.setattr(loop, "advance", until)
    assert sft.main(cut) == 130
    monkeypatch.setattr(loop, "advance", real)
    assert sft.main(cut) == 0
    one, other = (load_file(checkpoint.found(tmp_path / name)[-1] / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert export.main([str(tmp_path / "cut"), "--output", str(tmp_path / "model")]) == 0
    exported: Any = NativeForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert all(torch.equal(exported.state_dict()[name], value) for name, value in other.items())
    assert set(exported.base_model.heads) == set(HEADS)
    head, seconds = exported.base_model.heads["offset"], torch.arange(16) / 4
    late = head.offset(torch.randn(16, 16), seconds, torch.randn(40, 16), 10.0)
    assert abs(late) <= 1
    assert exported.base_model.heads["two_stream"].name(torch.rand(4, 3, 32, 32)) in HEADS["two_stream"]["classes"]
    assert 0 <= exported.base_model.heads["quality"].score(torch.randn(5, 16)) <= 1
    assert isinstance(exported.base_model.heads["actions"].detect(torch.randn(16, 16), seconds), list)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"video": None}, "nothing tells when frames are shown"),
        ({"video": {"kind": "joint", "heads": 2, "video_token": "beside"}, "vision": {"merge": 1}}, "no whole frames"),
        ({"audio": None}, "hears nothing"),
        ({"vision": {"drop": 0.5, "merge": 1}, "video": None}, "nothing tells"),
    ],
)
def test_what_has_nothing_to_see_is_refused(change: dict[str, Any], says: str) -> None:
    told = {**MODEL, **change, "vision": {**MODEL["vision"], **change.get("vision", {})}}
    with pytest.raises(SpecError, match=says):
        build_model(NativeSpec.model_validate(told), words(), seed=0)


def test_what_samples_say_is_read_or_refused() -> None:
    assert actions_of({"actions": [[0, 1.5, "red"], [2, 3, "green"]]}, ("red",)) == [(0.0, 1.5, "red")]
    assert late_by({}) is None
    assert late_by({"offset": -0.5}) == -0.5
    assert quality_of({"quality": 3}) == 3.0
    for read, wrong, slug in (
        (lambda fields: actions_of(fields, ("red",)), {"actions": [[1.0, "red"]]}, "bad_action"),
        (late_by, {"offset": "late"}, "bad_offset"),
        (quality_of, {"quality": True}, "bad_quality"),
    ):
        with pytest.raises(DataError) as error:
            read(wrong)
        assert error.value.reason == slug


def test_steps_are_the_means_of_what_begins_in_them() -> None:
    rows, seconds = torch.randn(9, 3), torch.tensor([0.0, 0.1, 0.2, 0.25, 0.5, 0.6, 1.0, 1.2, 5.0])
    groups = [[0, 1, 2], [3], [4, 5], [4, 5], [6, 7], [6, 7]]
    wanted = torch.stack([rows[group].mean(0) for group in groups])
    assert torch.allclose(stepped(rows, seconds, 4.0, 6), wanted, atol=1e-6)


@pytest.mark.parametrize("late", [0, 3, -4])
def test_offsets_are_drawn_within_reach(late: int) -> None:
    head = OffsetHead(OffsetSpec(most=4), 1, 1)
    said = {late + head._drawn(late, torch.Generator().manual_seed(seed)) for seed in range(60)}
    assert said == set(range(max(-4, late - 4), min(4, late + 4) + 1))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_the_recipe_finds_what_happens_and_how_late_its_sound_is(tmp_path: Path) -> None:
    """On clips that nobody has trained on, whose sounds are late by what the files say: an F1 of lights in time, ends
    to 0.3 s (frames are 0.25 s apart); offsets to the step (a guess is right once in nine); how much of a disc there is
    (the best constant is off by 0.22); where it drifts (a guess: one in two)."""
    data = built(tmp_path, 600, 100)
    config = str(ROOT / "pipelines" / "train" / "video_heads.yaml")
    told = [f"data.dataset={data / 'train'}", f"evaluation.data.scenes.dataset={data / 'heldout'}"]
    assert sft.main(["--config", config, "--set", *told, f"output={tmp_path / 'run'}"]) == 0
    last = json.loads((tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()[-1])
    assert last["scenes/action_f1"] > 0.5, last
    assert last["scenes/aux/offset_right"] > 0.8, last
    assert last["scenes/aux/quality_off"] < 0.1, last
    assert last["scenes/aux/two_stream_right"] > 0.9, last
