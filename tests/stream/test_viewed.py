"""Pictures of a stream without a family, as a view makes them, against the decoder and the view themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mmdata import StreamingDataset, StreamLoader, open_dataset
from mmdata.decode.image import decode
from mmdata.stream.viewed import Pictures, Viewed, stack
from mmdata.views.fixed import Fixed


def test_batches_of_normalised_squares(folder: Path) -> None:
    view = Fixed(size=28)
    stream = StreamingDataset(folder, yields="raw", shuffle="none")
    batches = list(StreamLoader(stream, stack, transform=Viewed(view), batch_size=10))
    dataset = open_dataset(folder)
    assert [key for batch in batches for key in batch["keys"]] == dataset.keys()
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    for number, sample in enumerate(dataset):
        medium = sample.media[0]
        expected = view.realize(decode(medium.data or b"", max_pixels=10**7), view.plan(medium))
        assert torch.equal(pixels[number], expected)
        assert batches[number // 10]["texts"][number % 10] == tuple(text.text for text in sample.texts)
    assert batches[0]["sample_of"].tolist() == list(range(10))


def test_samples_with_none_or_several_pictures_share_a_batch() -> None:
    one, two = np.zeros((3, 2, 2), np.float32), np.ones((3, 2, 2), np.float32)
    batch = stack([Pictures("a", ("x",), (one, two)), Pictures("b", (), ()), Pictures("c", ("y", "z"), (one,))])
    assert batch["sample_of"].tolist() == [0, 0, 2]
    assert batch["pixel_values"].shape == (3, 3, 2, 2)
    assert batch["texts"] == [("x",), (), ("y", "z")]
    with pytest.raises(ValueError, match="shape"):
        stack([Pictures("a", (), (one,)), Pictures("b", (), (np.zeros((3, 1, 1), np.float32),))])
