"""Folders as the hub has them: config, weights, tokenizer and processor files of tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as hf

from tests.mmtrain.tiny_models import GRID, make, words

CHAT = (
    "{% for m in messages %}{{ '<s>' + m['role'] + ': ' }}{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}{% if c['type'] == 'image' %}{{ '<image>' }}"
    "{% elif c['type'] == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}{{ '</s>' }}{% endfor %}"
)
PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": lambda: hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
    "llava_next": lambda: hf.LlavaNextImageProcessor(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=GRID
    ),
    "qwen2_5_vl": lambda: hf.Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 84 * 84}),
    "qwen2_audio": lambda: hf.WhisperFeatureExtractor(feature_size=128),
    "idefics3": lambda: hf.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}),
    "smolvlm": lambda: hf.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
    "internvl": lambda: hf.GotOcr2ImageProcessor(
        size={"height": 28, "width": 28}, max_patches=4, min_patches=1, crop_to_patches=True
    ),
}


def write_folder(folder: Path, name: str, *, chat: bool = False) -> Path:
    """The tiny model of a family (`tiny_models`) with random weights."""
    make(name).save_pretrained(folder)
    tokenizer = words()
    tokenizer.save_pretrained(folder)
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT)
    if name in PROCESSORS:
        PROCESSORS[name]().save_pretrained(folder)
    return folder
