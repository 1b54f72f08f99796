"""Numbers: the loss scale against torch's GradScaler, what may go with what, runs in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from mmdata.errors import SpecError
from mmtrain import sft
from mmtrain.precision import LossScale, autocast, compute_dtype, device_of, place, problem
from tests.mmtrain.test_sft import arguments, same_weights, trace

CPU = torch.device("cpu")


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(st.booleans(), max_size=40), interval=st.integers(1, 5))
def test_the_loss_scale_is_that_of_torch(steps: list[bool], interval: int) -> None:
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=interval)
    ours = LossScale(scale=1024.0, interval=interval)
    weight = torch.nn.Parameter(torch.ones(1))
    optim = torch.optim.SGD([weight], lr=0.0)
    for finite in steps:
        theirs.scale(weight.sum())
        weight.grad = torch.full((1,), 1.0 if finite else float("inf"))
        theirs.step(optim)
        theirs.update()
        ours.update(finite=finite)
        assert ours.scale == theirs.get_scale()
        again = LossScale(interval=interval)
        again.load_state_dict(ours.state_dict())
        assert again == ours


def test_what_goes_with_what() -> None:
    assert problem("bf16", "bf16") is None
    assert problem("fp16", "fp32") is None
    assert "set precision: bf16" in str(problem("fp32", "bf16"))
    assert device_of("cpu") == CPU
    if not torch.cuda.is_available():
        assert device_of("auto") == CPU
        with pytest.raises(SpecError, match="no GPU"):
            device_of("cuda")


def test_autocast_is_asked_what_it_computes_in() -> None:
    with autocast(CPU, "bf16"):
        assert compute_dtype(CPU, torch.float32) == torch.bfloat16
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(CPU, "fp32"):
        assert compute_dtype(CPU, torch.float32) == torch.float32
    model = place(torch.nn.Linear(2, 2), CPU, "bf16")
    assert model.weight.dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


@pytest.fixture(scope="module")
def full_run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("precision") / "full"
    assert sft.main(arguments(folder, output, "--set", "steps=4")) == 0
    return output


@pytest.mark.parametrize("numbers", [["precision=bf16"], ["precision=fp16"], ["precision=bf16", "params=bf16"]])
def test_half_precision_learns_what_float32_does(
    folder: Path, tmp_path: Path, full_run: Path, numbers: list[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "half", "--set", "steps=4", *numbers)) == 0
    full, half = trace(full_run), trace(tmp_path / "half")
    assert [line["keys_crc32c"] for line in half] == [line["keys_crc32c"] for line in full]
    assert half[0]["loss"] == pytest.approx(full[0]["loss"], rel=5e-3)
    assert half[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.1)
    assert [line["loss"] for line in half] != [line["loss"] for line in full]
    assert not same_weights(full_run, tmp_path / "half")


def test_weights_that_cannot_be_computed_in_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sft.main(arguments(folder, tmp_path / "run", "--set", "params=bf16")) == 2
    assert "set precision: bf16" in capsys.readouterr().err


def test_rotary_positions_keep_their_frequencies() -> None:
    """In bf16 they would be off by whole turns far into a row; transformers keeps them in float32 too."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=9, **small))
    before = model.model.rotary_emb.inv_freq.clone()
    place(model, CPU, "bf16")
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    assert all(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    tied = LlamaForCausalLM(LlamaConfig(vocab_size=9, tie_word_embeddings=True, **small))
    place(tied, CPU, "bf16")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
