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
SQUARE = {"height": 28, "width": 28}
QWEN = {"shortest_edge": 56 * 56, "longest_edge": 84 * 84}
PROCESSORS: dict[str, Callable[[], list[Any]]] = {
    "llava": lambda: [hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=SQUARE)],
    "llava_next": lambda: [
        hf.LlavaNextImageProcessor(size={"shortest_edge": 28}, crop_size=SQUARE, image_grid_pinpoints=GRID)
    ],
    "llava_onevision": lambda: [
        hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=GRID),
        hf.LlavaOnevisionVideoProcessor(size=SQUARE, num_frames=4),
    ],
    "qwen2_vl": lambda: [hf.Qwen2VLImageProcessor(size=QWEN), hf.Qwen2VLVideoProcessor(size=QWEN)],
    "qwen2_5_vl": lambda: [hf.Qwen2VLImageProcessor(size=QWEN), hf.Qwen2VLVideoProcessor(size=QWEN)],
    "qwen3_vl": lambda: [
        hf.Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 64 * 64, "longest_edge": 96 * 96}),
        hf.Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 50_000}),
    ],
    "qwen3_vl_moe": lambda: PROCESSORS["qwen3_vl"](),
    "qwen2_5_omni": lambda: [
        # In one file, as published: the parameters of pictures, videos and sounds.
        hf.Qwen2VLImageProcessor(size=QWEN),
        hf.Qwen2VLVideoProcessor(size=QWEN),
    ],
    "qwen2_audio": lambda: [hf.WhisperFeatureExtractor(feature_size=128)],
    "idefics3": lambda: [hf.Idefics3ImageProcessor(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})],
    "smolvlm": lambda: [
        hf.SmolVLMImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}),
        hf.SmolVLMVideoProcessor(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, video_sampling={"max_frames": 3, "fps": 1}
        ),
    ],
    "internvl": lambda: [
        hf.GotOcr2ImageProcessor(size=SQUARE, max_patches=4, min_patches=1, crop_to_patches=True),
        hf.InternVLVideoProcessor(size=SQUARE, num_frames=4),
    ],
    "gemma3": lambda: [hf.Gemma3ImageProcessor(size=SQUARE)],
    "paligemma": lambda: [hf.SiglipImageProcessor(size=SQUARE)],
    "pixtral": lambda: [hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size=16)],
    "mistral3": lambda: [hf.PixtralImageProcessor(size={"longest_edge": 64}, patch_size=16)],
    "lfm2_vl": lambda: [
        hf.Lfm2VlImageProcessor(tile_size=32, encoder_patch_size=8, max_tiles=4, min_image_tokens=1, max_image_tokens=9)
    ],
}


def write_folder(folder: Path, name: str, *, chat: bool = False) -> Path:
    """The tiny model of a family (`tiny_models`) with random weights."""
    make(name).save_pretrained(folder)
    tokenizer = words()
    tokenizer.save_pretrained(folder)
    if chat:
        (folder / "chat_template.jinja").write_text(CHAT)
    for processor in PROCESSORS.get(name, list)():
        processor.save_pretrained(folder)
    return folder
