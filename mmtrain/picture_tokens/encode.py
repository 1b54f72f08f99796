"""A dataset's pictures as words: lines for `mmdata.build`, both ways between text and picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.types import Sample
from mmtrain.models.tokens import Vq
from mmtrain.picture_tokens.spec import pictures
from mmtrain.picture_tokens.words import written

BATCH = 64
TASKS = ("draw", "name")
ASKED = {"draw": "Draw {text}", "name": "{picture}\nWhat is this?"}


def lines(dataset: Dataset, tokeniser: Vq, tasks: Sequence[str], device: torch.device) -> Iterator[str]:
    """For each sample with an image and a text (its last), a line for each task: `draw` asks for the picture by its
    text, `name` for the text by its picture. Raises DataError for a sample without an image or a text."""
    tokeniser = tokeniser.to(device)
    for start in range(0, len(dataset), BATCH):
        positions = range(start, min(start + BATCH, len(dataset)))
        ids = tokeniser.encode(pictures(dataset, positions, tokeniser.spec.size).to(device)).flatten(1).tolist()
        for position, codes in zip(positions, ids, strict=True):
            sample = dataset.sample(position, media=False)
            text, picture = _text(sample), written(codes)
            for task in tasks:
                asked = ASKED[task].format(text=text, picture=picture)
                answer = picture if task == "draw" else text
                said = [{"from": "human", "value": asked}, {"from": "gpt", "value": answer}]
                yield json.dumps({"conversations": said, "task": task, "caption": text, "of": sample.key}) + "\n"


def encode(dataset: Dataset, tokeniser: Vq, tasks: Sequence[str], output: Path, device: torch.device) -> int:
    """Write the lines into a file, whole or not at all; how many they are."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary, count = output.with_name(f".{output.name}.{os.getpid()}.tmp"), 0
    try:
        with temporary.open("w") as file:
            for line in lines(dataset, tokeniser, tasks, device):
                file.write(line)
                count += 1
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _text(sample: Sample) -> str:
    if not sample.texts:
        raise DataError("no_text", f"sample {sample.key} has no text to go with its picture")
    return sample.texts[-1].text.strip()
