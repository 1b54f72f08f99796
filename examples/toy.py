"""What the examples share: a stream of samples as small vectors, and a model that learns from them."""

from __future__ import annotations

import numpy as np
import torch

from mmdata import StreamingDataset
from mmdata.stream.spec import StreamSpec
from mmdata.types import Decoded, Sample


def vector(sample: Sample) -> dict[str, object]:
    """The mean colour of each quarter of the first picture: float32 [1, 12], with the sample's key."""
    (image, *_) = (part for part in sample.parts if isinstance(part, Decoded))
    height, width = image.pixels.shape[0] // 2, image.pixels.shape[1] // 2
    quarters = [image.pixels[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    values = np.concatenate([quarter.mean((0, 1)) for quarter in quarters]) / 255
    return {"x": torch.from_numpy(values).float()[None], "keys": [sample.key]}


def open_stream(folder: str, run_folder: str, global_batch: int) -> StreamingDataset:
    """An endless stream: the trainer's steps end the run. Rank and ranks are torch.distributed's."""
    spec = StreamSpec(dataset=folder, epochs=None)
    return StreamingDataset(spec, global_batch=global_batch, run_folder=run_folder)


class Model(torch.nn.Module):
    """Predicts the last quarter's colour from the other three."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(9, 3)

    def forward(self, x: torch.Tensor, keys: object = None) -> dict[str, torch.Tensor]:
        return {"loss": ((self.linear(x[:, :9]) - x[:, 9:]) ** 2).mean()}
