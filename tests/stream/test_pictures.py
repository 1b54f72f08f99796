"""A stream whose pictures DALI decodes: the packs that the CPU makes, the same samples masked, its name in states."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mmdata import StreamingDataset, StreamLoader
from mmdata.collate import PackedCollator
from mmdata.errors import SpecError
from mmdata.families import Family, get_family
from mmdata.stream.spec import StreamSpec
from mmdata.types import Packed
from mmdata.views.augment import Augment
from tests.dataset_fixture import jpeg, photograph, write_dataset
from tests.tokenizer_fixture import small_tokenizer

pytest.importorskip("nvidia.dali", reason="NVIDIA DALI is not installed")


def stream(folder: Path, family: Family, **fields: Any) -> StreamingDataset:
    fields = {"max_length": 128, "block_samples": 10, "seed": 5, **fields}
    return StreamingDataset(StreamSpec(dataset=str(folder), **fields), family=family)


def packs(dataset: StreamingDataset) -> list[Packed]:
    return [pack for pack in dataset if isinstance(pack, Packed)]


def close(one: Packed, other: Packed) -> None:
    assert one.keys == other.keys
    assert one.masked == other.masked
    assert np.array_equal(one.labels, other.labels)
    pixels, reference = one.media["pixel_values"], other.media["pixel_values"]
    assert pixels.dtype == reference.dtype
    assert pixels.shape == reference.shape
    apart = np.abs(pixels.astype(float) - reference)
    # Pictures this small are mostly edges: the page's bounds are for photographs at a tower's size.
    assert apart.mean() <= 0.01
    assert (apart <= 0.06).mean() >= 0.98


def saved(pixels: np.ndarray, format: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"augment": Augment(crop=(0.5, 1.0), flip=0.5, contrast=0.2)}])
def test_the_same_packs_as_by_the_cpu(folder: Path, family: Family, options: dict[str, Any]) -> None:
    ours = stream(folder, family, image_decoder="dali", **options)
    found, expected = packs(ours), packs(stream(folder, family, **options))
    assert len(found) == len(expected) > 3
    for one, other in zip(found, expected, strict=True):
        close(one, other)
    assert not ours.fallbacks


def test_tiles_of_several_shapes(folder: Path) -> None:
    family = get_family("llava_next", tokenizer=small_tokenizer(), image={"size": 56})
    options = {"max_length": 4096, "block_samples": 8, "shuffle": "none"}
    expected = next(iter(stream(folder, family, **options)))
    found = next(iter(stream(folder, family, image_decoder="dali", **options)))
    assert isinstance(found, Packed)
    assert isinstance(expected, Packed)
    close(found, expected)


def test_damaged_samples_are_masked_and_odd_ones_counted(tmp_path: Path, family: Family) -> None:
    # The fixture's index believes every file to be as large as its picture.
    _, _, height, width = jpeg(2)
    pixels = photograph("coffee")[:height, :width]
    instead = {1: jpeg(1)[0][:900], 2: saved(np.dstack([pixels, pixels[..., :1]]), "PNG")}
    folder = write_dataset(tmp_path / "dataset", samples=6, instead=instead)
    ours = stream(folder, family, image_decoder="dali")
    for one, other in zip(packs(ours), packs(stream(folder, family)), strict=True):
        close(one, other)
    assert ours.bad == {"truncated_image": 1}
    assert ours.fallbacks == {"png with alpha": 1}


def test_loader_threads_and_forked_workers(folder: Path, family: Family) -> None:
    expected = packs(stream(folder, family, image_decoder="dali"))  # DALI has run in this process before it forks.
    loader = StreamLoader(stream(folder, family, image_decoder="dali"), PackedCollator(), threads=2)
    forked = DataLoader(stream(folder, family, image_decoder="dali"), batch_size=None, num_workers=2)
    for pack, batch, other in zip(expected, loader, forked, strict=True):
        reference = torch.from_numpy(pack.media["pixel_values"])
        assert torch.equal(batch["pixel_values"].reshape(reference.shape), reference)
        assert np.array_equal(other.media["pixel_values"], pack.media["pixel_values"])


def test_the_decoder_is_part_of_the_stream_and_the_device_is_not(folder: Path, family: Family) -> None:
    state = stream(folder, family).state_dict()
    with pytest.raises(SpecError, match="image_decoder"):
        stream(folder, family, image_decoder="dali").load_state_dict(state)
    assert "image_device" not in state["config"]


def test_what_does_not_go_together_is_refused(folder: Path, family: Family) -> None:
    with pytest.raises(SpecError, match="`exact` only"):
        stream(folder, family, image_decoder="dali", decode="fast")
    with pytest.raises(SpecError, match="needs image_decoder: dali"):
        stream(folder, family, image_device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(SpecError, match="no CUDA device"):
            stream(folder, family, image_decoder="dali", image_device="gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_packs_made_on_a_gpu(folder: Path, family: Family) -> None:
    ours = stream(folder, family, image_decoder="dali", image_device="gpu")
    for one, other in zip(packs(ours), packs(stream(folder, family)), strict=True):
        close(one, other)
