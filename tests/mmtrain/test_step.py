"""One step is one step, however its packs share passes and ranks: equal loss, equal gradients (training.md, 11)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmtrain import sft, step
from mmtrain.objective import losses
from tests.mmtrain.gradients import main
from tests.mmtrain.hf_folders import write_folder
from tests.mmtrain.ranks import run
from tests.mmtrain.test_distributed import without_rank
from tests.mmtrain.test_sft import arguments, trace
from tests.test_media_stream import folder as media  # noqa: F401 a fixture: pictures, clips, tones, texts


def gradients(ranks: int, file: Path, told: list[str]) -> list[torch.Tensor]:
    """Of the only step of a run on so many real processes."""
    if ranks == 1:
        assert main([str(file), *told]) == 0
    else:
        run(ranks, [str(file), *told], file.parent / "said", main)
    (only,) = torch.load(file)
    return list(only)


def test_short_packs_share_a_pass_and_long_ones_do_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to so many tokens; losses are those of a pass for each pack."""
    told = ["--set", "steps=3", "global_batch=6", "data.packing=none"]
    assert sft.main(arguments(folder, tmp_path / "single", *told)) == 0
    passes: list[list[int]] = []

    def seen(model: Any, batch: dict[str, Any], *more: Any) -> Any:
        passes.append(batch["cu_seq_lens_q"].diff().tolist())
        return losses(model, batch, *more)

    monkeypatch.setattr(step, "losses", seen)
    capped = [*told, "packs_per_forward=6", "max_tokens_per_forward=90"]
    assert sft.main(arguments(folder, tmp_path / "capped", *capped)) == 0
    assert "6 packs per forward pass, of 90 tokens at most" in capsys.readouterr().out
    assert sum(map(len, passes)) == 18
    assert 3 < len(passes) < 18
    assert all(sum(lengths) <= 90 or len(lengths) == 1 for lengths in passes)
    assert any(len(lengths) > 1 for lengths in passes)
    for one, other in zip(trace(tmp_path / "capped"), trace(tmp_path / "single"), strict=True):
        assert one["keys_crc32c"] == other["keys_crc32c"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    sharded = [*capped, "distributed.mode=fsdp"]
    assert sft.main(arguments(folder, tmp_path / "sharded", *sharded)) == 2
    assert "max_tokens_per_forward: ranks would take different numbers of passes" in capsys.readouterr().err


def test_accumulation_and_ranks_change_nothing(folder: Path, tmp_path: Path) -> None:
    """Four packs in one pass, in four, and in two on each of two ranks: loss and gradients within 1e-6."""
    told = ["--set", "steps=1", "global_batch=4", "optim.clip=null", "data.max_length=120"]
    found = {}
    for accumulation, ranks in [(1, 1), (4, 1), (2, 2)]:
        output = tmp_path / f"{accumulation}-{ranks}"
        packs = 4 // (accumulation * ranks)
        options = arguments(folder, output, *told, f"packs_per_forward={packs}")
        done = gradients(ranks, tmp_path / f"{accumulation}-{ranks}.pt", options)
        found[accumulation, ranks] = done, trace(output)[0]
    expected, line = found.pop((1, 1))
    assert max(float(each.abs().max()) for each in expected) > 1e-3
    for gradient, other in found.values():
        assert without_rank(other) == without_rank(line)
        assert other["loss"] == pytest.approx(line["loss"], abs=1e-6)
        assert len(gradient) == len(expected)
        for one, two in zip(gradient, expected, strict=True):
            assert float((one - two).abs().max()) <= 1e-6


def test_words_alone_are_a_zero_to_a_connector(
    media: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A connector alone is trained, as LLaVA is aligned, on pictures and texts: passes without a picture have a loss
    and no gradient, and the step is that of one pass over all of them."""
    source = write_folder(tmp_path / "source", "llava", chat=True)
    told = ["--set", f"model={{kind: hf, path: {source}}}", "data.packing=none", "steps=3", "global_batch=6"]
    told.append("parameters=[{match: '(vision|language|head).*', train: false}]")
    traces = []
    for packs in (1, 6):
        assert sft.main(arguments(media, tmp_path / str(packs), *told, f"packs_per_forward={packs}")) == 0
        traces.append(trace(tmp_path / str(packs)))
    assert all(line["tokens_media"] > 0 for line in traces[0])
    for one, other in zip(*traces, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
        assert one["grad_norm"] > 0


def test_a_run_begins_with_something_to_train(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = "parameters=[{match: '.*', freeze_until: 0.25}, {match: 'vision.*', freeze_until: 0.5}]"
    assert sft.main(arguments(folder, tmp_path / "run", "--set", rules)) == 2
    assert "nothing is trained for the first 25% of the steps" in capsys.readouterr().err


def test_steps_without_any_target_are_told(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = ["--set", "steps=2", "task_weights={dataset: 0.0}"]
    assert sft.main(arguments(folder, tmp_path / "run", *told)) == 0
    assert "empty  2 of 2 steps had no target of any weight and moved nothing" in capsys.readouterr().out
    assert sft.main(arguments(folder, tmp_path / "other", "--set", "steps=2")) == 0
    assert "empty" not in capsys.readouterr().out
