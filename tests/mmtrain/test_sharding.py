"""A model in shards learns what a whole one does, whatever media a rank has, and its checkpoints fit any number of
ranks (training.md, 11, 27, 28, 31, 32)."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmtrain import checkpoint, evaluate, export, replay, sft
from mmtrain.examine import read as read_evaluations
from mmtrain.restore import restore
from mmtrain.tensor_files import TensorFiles
from tests.dataset_fixture import write_dataset
from tests.mmtrain.hf_folders import write_folder
from tests.mmtrain.ranks import run
from tests.mmtrain.test_models import config
from tests.mmtrain.test_sft import CONFIG

STEPS = 4
SMALL = [
    f"steps={STEPS}",
    "checkpoint.every=2",
    "global_batch=5",  # three micro-steps of two ranks, of which one is a dummy's
    "data.packing=none",  # packs of one sample: of text alone, or with an image
    "data.max_length=160",
    "tokenizer.vocab_size=400",
    "model.vision.hidden=32",
    "model.language.hidden=64",
    "optim.clip=0.5",
    'parameters=[{match: "vision\\\\.vision_model\\\\.embeddings.*|vision\\\\.embeddings.*", train: false}]',
]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every second sample has no image, and of the first eight only one has."""
    alone = {*range(0, 36, 2), *range(7)}
    return write_dataset(tmp_path_factory.mktemp("mixed") / "dataset", samples=36, text_only=alone)


def told(folder: Path, output: Path, *more: str) -> list[str]:
    return ["--config", str(CONFIG), "--set", *SMALL, f"data.dataset={folder}", f"output={output}", *more]


def trace(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def tensors(output: Path, kind: str) -> dict[str, torch.Tensor]:
    """All of a kind in the last checkpoint, read at once: each reading of shards begins with the heads of all."""
    files = TensorFiles(checkpoint.found(output)[-1], kind)
    found = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in files.described.items()}
    files.fill(found)
    return found


def weights(output: Path) -> dict[str, torch.Tensor]:
    return tensors(output, "model")


def moments(output: Path) -> dict[str, torch.Tensor]:
    return tensors(output, "optimizer")


def assert_same(found: Path, expected: Path, tolerance: float) -> None:
    """The same samples, losses, gradient norms, weights and moments."""
    lines = list(zip(trace(found), trace(expected), strict=True))
    assert len(lines) == STEPS
    for a, b in lines:
        assert a["keys_crc32c"] == b["keys_crc32c"]
        assert a["loss"] == pytest.approx(b["loss"], abs=tolerance)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * tolerance)
        assert a["lr"] == b["lr"]
    for mine, other in ((weights(found), weights(expected)), (moments(found), moments(expected))):
        assert mine.keys() == other.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], other[name], atol=20 * tolerance, rtol=0, msg=name)


@pytest.fixture(scope="module")
def alone(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    run(1, told(mixed, output), output.parent)
    return output


def test_two_shards_learn_what_one_process_does(alone: Path, sharded: Path) -> None:
    assert len(list((sharded / "checkpoints" / "latest" / "model").glob("rank-*.safetensors"))) == 2
    assert_same(sharded, alone, 1e-6)


def halfway(run_folder: Path, to: Path) -> Path:
    """A copy of a finished run as it was at half its steps."""
    shutil.copytree(run_folder, to, symlinks=True)
    shutil.rmtree(checkpoint.found(to)[-1])
    assert [checkpoint.step_of(path) for path in checkpoint.found(to)] == [STEPS // 2]
    return to


@pytest.fixture(scope="module")
def sharded(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sharded") / "run"
    run(2, told(mixed, output, "distributed.mode=fsdp"), output.parent)
    return output


def goes_on(mixed: Path, start: Path, output: Path, expected: Path, ranks: int, *more: str) -> None:
    said = run(ranks, told(mixed, halfway(start, output), *more), output.parent)
    assert f"{STEPS // 2} of {STEPS} steps are done" in said
    assert_same(output, expected, 1e-6)


def test_shards_of_two_go_on_as_a_whole_model_and_back(mixed: Path, alone: Path, sharded: Path, tmp_path: Path) -> None:
    goes_on(mixed, sharded, tmp_path / "whole", alone, 1)
    goes_on(mixed, alone, tmp_path / "shards", alone, 2, "distributed.mode=fsdp")


@pytest.mark.soak
@pytest.mark.parametrize(
    ("ranks", "more"),
    [
        (1, ["distributed.mode=fsdp"]),
        (4, ["distributed.mode=fsdp"]),
        (2, ["distributed.mode=ddp"]),
        (4, ["distributed.mode=hsdp"]),
        (2, ["distributed.mode=fsdp", "distributed.cpu_offload=true"]),
        (2, ["distributed.mode=fsdp", "distributed.reshard_after_forward=false"]),
        (2, ["distributed.mode=fsdp", "activation_checkpointing=full"]),
    ],
)
def test_shards_of_two_go_on_in_any_way(
    mixed: Path, alone: Path, sharded: Path, tmp_path: Path, ranks: int, more: list[str]
) -> None:
    goes_on(mixed, sharded, tmp_path / "run", alone, ranks, *more)
    files = list((tmp_path / "run" / "checkpoints" / "latest").glob("model/*"))
    copies = 2 if "distributed.mode=hsdp" in more else 1  # of which one is written
    assert len(files) == (0 if "distributed.mode=ddp" in more else ranks // copies)


EXAMINED = [
    "steps=6",
    "ema={decay: 0.5}",
    "evaluation.every=2",
    "evaluation.batches=2",
    "evaluation.generate=2",
    "evaluation.max_new_tokens=4",
    "early_stopping={patience: 0, min_delta: 1000}",  # the second evaluation ends the run, after STEPS
]


@pytest.fixture(scope="module")
def examined(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One run in one process, and in two shards; averaged, evaluated and stopped."""
    output = tmp_path_factory.mktemp("examined")
    more = [f"evaluation.data={{photos: {{dataset: {mixed}, max_length: 160}}}}", *EXAMINED]
    for ranks, name in ((1, "whole"), (2, "shards")):
        mode = "fsdp" if ranks == 2 else "ddp"
        said = run(ranks, told(mixed, output / name, f"distributed.mode={mode}", *more), output / "said")
        assert f"stopped after {STEPS} steps" in said
    return output / "whole", output / "shards"


def test_shards_are_evaluated_averaged_and_stopped_as_a_whole_model_is(examined: tuple[Path, Path]) -> None:
    """Losses, answers and their pages, averages, and which checkpoint is best."""
    whole, shards = examined
    assert_same(shards, whole, 1e-6)
    found, expected = read_evaluations(shards), read_evaluations(whole)
    assert [line["step"] for line in found] == [line["step"] for line in expected] == [2, STEPS]
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(a[name] == pytest.approx(b[name], abs=1e-6) for name in a if name != "seconds")
    pages = [(each / "samples" / f"step-{STEPS:08d}.html").read_text() for each in examined]
    assert [page.count('<span class="chip">answered</span>') for page in pages] == [2, 2]
    texts = [re.sub(r"<[^>]*>", "", page) for page in pages]
    assert texts[0].replace("whole", "shards") == texts[1]
    assert (whole / "checkpoints" / "best").readlink() == (shards / "checkpoints" / "best").readlink()
    mine, other = (TensorFiles(each / "checkpoints" / "best", "parts") for each in (shards, whole))
    assert mine.described.keys() == other.described.keys()
    assert len(mine.files) == 2
    for name in mine.described:
        torch.testing.assert_close(mine.whole(name), other.whole(name), atol=2e-5, rtol=0, msg=name)


def test_one_process_opens_what_shards_left(
    examined: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Export, evaluate and replay, each by its command."""
    _, shards = examined
    for choice in ("ema", "raw"):
        for each in examined:
            output = tmp_path / f"{each.name}-{choice}"
            assert export.main([str(each), "--output", str(output), "--weights", choice]) == 0
        one, other = (load_file(tmp_path / f"{each.name}-{choice}" / "model.safetensors") for each in examined)
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=0, msg=name)
    capsys.readouterr()
    assert evaluate.main([str(shards), "--batches", "2", "--generate", "0", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["loss"] == pytest.approx(read_evaluations(shards)[-1]["loss"], abs=1e-6)

    for step in (2, 3):  # at a checkpoint, and one after it
        found = replay.replay(restore(shards, step=step), step)
        line = trace(shards)[step]
        assert (found.weights, found.logged, len(found.samples)) == (step, True, line["samples"])
        assert found.loss == pytest.approx(line["loss"], abs=1e-6)


@pytest.mark.soak
def test_adapters_in_shards_are_the_same_on_any_number_of_ranks(mixed: Path, tmp_path: Path) -> None:
    """With dropout, saved without what is never trained; and one process goes on from them. Rows of a sharded model
    have dummies, so what is dropped is other than in a whole one."""
    rules = "parameters=[]"
    lora = r"adapters=[{kind: lora, match: 'language\..*_proj', rank: 2, dropout: 0.3}]"
    more = [rules, lora, "checkpoint.weights=trained", "distributed.mode=fsdp"]
    run(1, told(mixed, tmp_path / "whole", *more), tmp_path)
    run(2, told(mixed, tmp_path / "shards", *more), tmp_path)
    assert_same(tmp_path / "shards", tmp_path / "whole", 1e-6)
    assert {name.split(".")[-1] for name in weights(tmp_path / "shards")} == {"a", "b"}
    goes_on(mixed, tmp_path / "shards", tmp_path / "again", tmp_path / "whole", 1, *more)
    one, other = (load_file(next((tmp_path / name / "adapter").rglob("*.safetensors"))) for name in ("whole", "shards"))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-5, rtol=0, msg=name)


def test_packed_rows_of_a_model_that_cannot_pack_are_refused(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sharded model wants every medium in every row, by a dummy that would share the row."""
    model = {"kind": "hf", "path": str(write_folder(tmp_path / "model", "lfm2_vl", chat=True))}
    more: dict[str, Any] = {"collate": "packed", "distributed": {"mode": "fsdp"}, "data": {"packing": "none"}}
    assert sft.main(config(tmp_path, mixed, model, **more)) == 2
    assert "collate: packed: rows of a sharded model get a segment with each medium" in capsys.readouterr().err


def test_half_precision_in_shards_is_near(mixed: Path, alone: Path, tmp_path: Path) -> None:
    """Weights travel as bfloat16 and are moved in float32."""
    more = ["distributed.mode=fsdp", "distributed.mixed_precision=true", "precision=bf16", "steps=2"]
    run(2, told(mixed, tmp_path / "run", *more), tmp_path)
    for found, expected in zip(trace(tmp_path / "run"), trace(alone), strict=False):
        assert found["loss"] != expected["loss"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-2)
    assert {tensor.dtype for tensor in weights(tmp_path / "run").values()} == {torch.float32}


def test_shards_are_read_by_torch_alone(sharded: Path) -> None:
    """The files are those of torch.distributed.checkpoint, and its tool makes one whole file of them."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint._consolidate_hf_safetensors import consolidate_safetensors_files

    latest = sharded / "checkpoints" / "latest"
    described: Any = HuggingFaceStorageReader(str(latest / "model")).read_metadata().state_dict_metadata
    expected = weights(sharded)
    assert {name: each.size for name, each in described.items()} == {n: t.shape for n, t in expected.items()}
    whole = sharded.parent / "whole"
    whole.mkdir()
    consolidate_safetensors_files(str(latest / "model"), str(whole), fqn_to_index_mapping=dict.fromkeys(expected, 1))
    (file,) = whole.glob("*.safetensors")
    found = load_file(file)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("more", [[], ["distributed.cpu_offload=true"], ["distributed.mixed_precision=true"]])
def test_a_gpu_steps_in_shards(mixed: Path, tmp_path: Path, more: list[str]) -> None:
    """FSDP2 over NCCL, on one GPU."""
    size = ["model.vision.heads=2", "model.language.heads=2", "precision=bf16", "device=cuda"]
    run(1, told(mixed, tmp_path / "whole", *size), tmp_path)
    run(1, told(mixed, tmp_path / "shards", *size, "distributed.mode=fsdp", *more), tmp_path)
    for found, expected in zip(trace(tmp_path / "shards"), trace(tmp_path / "whole"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-2)
