"""A model in shards learns what a whole one does, whatever media a rank has, and its checkpoints fit any number of
ranks (training.md, 11, 27, 28, 31, 32)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmtrain import checkpoint
from mmtrain.tensor_files import TensorFiles
from tests.dataset_fixture import write_dataset
from tests.mmtrain.ranks import run
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


def weights(output: Path) -> dict[str, torch.Tensor]:
    files = TensorFiles(checkpoint.found(output)[-1], "model")
    return {name: files.whole(name) for name in files.described}


def moments(output: Path) -> dict[str, torch.Tensor]:
    files = TensorFiles(checkpoint.found(output)[-1], "optimizer")
    return {name: files.whole(name) for name in files.described}


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
