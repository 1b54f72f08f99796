"""`image_decoder: auto`: what it is where, and that a state tells."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdata import StreamingDataset
from mmdata.decode import dali
from mmdata.errors import SpecError
from mmdata.families import Family
from mmdata.stream.spec import StreamSpec


def stream(folder: Path, family: Family, **fields: Any) -> StreamingDataset:
    return StreamingDataset(StreamSpec(dataset=str(folder), max_length=128, **fields), family=family)


@pytest.fixture
def gpu_and_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine looks that has both; nothing is decoded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(dali, "installed", lambda: True)
    monkeypatch.setattr(dali, "require", lambda device: None)


def test_without_a_gpu_it_is_the_cpu_and_its_states_are_the_cpus(
    folder: Path, family: Family, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    caplog.set_level(logging.INFO)
    auto = stream(folder, family, image_decoder="auto", image_device="gpu")
    assert auto.spec.image_decoder == auto.config["image_decoder"] == "cpu"
    assert auto.spec.image_device == "cpu"
    assert "auto is cpu here" in caplog.text
    stream(folder, family).load_state_dict(auto.state_dict())


@pytest.mark.usefixtures("gpu_and_dali")
def test_with_both_it_is_dali_and_a_state_of_the_cpu_is_refused(folder: Path, family: Family) -> None:
    auto = stream(folder, family, image_decoder="auto")
    assert (auto.spec.image_decoder, auto.spec.image_device) == ("dali", "gpu")
    with pytest.raises(SpecError, match='image_decoder: "cpu" -> "dali"'):
        auto.load_state_dict(stream(folder, family, image_decoder="cpu").state_dict())
    assert stream(folder, family, image_decoder="auto", decode="guarded").spec.image_decoder == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_it_is_what_is_installed(folder: Path, family: Family) -> None:
    expected = "dali" if dali.installed() else "cpu"
    assert stream(folder, family, image_decoder="auto").spec.image_decoder == expected
