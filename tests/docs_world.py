"""The little world in which snippets of README and docs run: datasets, a tokenizer, the sources of every page."""

from __future__ import annotations

import shutil
from pathlib import Path

import transformers as hf

from tests.building import folder_of_pictures
from tests.dataset_fixture import write_dataset
from tests.families.processors import tokenizer

BUILD = """
source: {kind: folder, path: photos}
steps: [{kind: probe}]
output: {path: data/photos}
engine: {workers: 1}
"""
SPECIAL = ("<image>", "<video>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def write_world(folder: Path) -> Path:
    """`data/pets` (24 pairs), `data/pets2` (the same again), `photos`, small specs, `tokenizer`, and `checkpoint` (a
    Qwen2.5-VL's settings)."""
    write_dataset(folder / "data" / "pets", samples=24, per_shard=10)
    shutil.copytree(folder / "data" / "pets", folder / "data" / "pets2")
    tokenizer(**{f"special_{at}": name for at, name in enumerate(SPECIAL)}).save_pretrained(folder / "tokenizer")
    folder_of_pictures(folder / "photos", 3)
    (folder / "build.yaml").write_text(BUILD)
    (folder / "tiny.yaml").write_text("data: {dataset: data/pets, max_length: 8}\noutput: tiny_run\n")
    hf.Qwen2_5_VLConfig().save_pretrained(folder / "checkpoint")
    hf.Qwen2VLImageProcessor().save_pretrained(folder / "checkpoint")
    return folder


def enter(world: Path, folder: Path) -> Path:
    """A page's own folder in the world: what is in the world is there, what the page makes stays its own."""
    for place in world.iterdir():
        if place.name == "data":
            (folder / "data").mkdir()
            for dataset in place.iterdir():
                (folder / "data" / dataset.name).symlink_to(dataset)
        elif place.is_file():  # a spec's paths are those of where it lies
            shutil.copy(place, folder)
        else:
            (folder / place.name).symlink_to(place)
    return folder
