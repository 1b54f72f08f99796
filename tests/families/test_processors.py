"""Each family's whole batch against the Hugging Face processor of the model it describes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from mmdata.errors import DataError
from mmdata.families import get_family
from mmdata.families._family import expand, plan_media
from mmdata.templates import Encoded, encode, get_template
from mmdata.types import Origin, Sample, Text
from mmdata.views.lfm2 import Lfm2Tiles
from tests.families.processors import PHOTOS, batch, image, same, tensor, tokenizer


def text_of(prompt: str, placeholder: str) -> list[str]:
    """`a <image> b` as the pieces around its image."""
    return prompt.split(placeholder)


def compare(
    processor: Any, family: Any, placeholder: str, names: list[str], *, prompt: str = "", **options: Any
) -> None:
    """Each photograph alone: ids and arrays; then all of them in one pack: arrays."""
    prompt = prompt or f"a photo {placeholder} of what"
    before, after = text_of(prompt, placeholder)
    for photo in PHOTOS:
        theirs = processor(
            text=[prompt], images=[tensor(photo)], return_tensors="pt", add_special_tokens=False, **options
        )
        ours = batch(family, [[before, image(photo), after]])
        same(ours, theirs, ["input_ids", *names])
    theirs = processor(
        text=[prompt] * len(PHOTOS),
        images=[[tensor(photo)] for photo in PHOTOS],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
        **options,
    )
    ours = batch(family, [[before, image(photo), after] for photo in PHOTOS])
    same(ours, theirs, names)


def test_llava_next() -> None:
    words = tokenizer(image_token="<image>")
    grid = [[56, 112], [112, 56], [112, 112]]
    processor = hf.LlavaNextProcessor(
        hf.LlavaNextImageProcessor(
            size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=grid
        ),
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    family = get_family("llava_next", tokenizer=words, image={"size": 56, "pinpoints": grid})
    compare(processor, family, "<image>", ["pixel_values", "image_sizes"])


def test_llava() -> None:
    words = tokenizer(image_token="<image>")
    for pad in (False, True):
        kind = hf.LlavaImageProcessor if pad else hf.CLIPImageProcessor
        options = {"do_pad": True} if pad else {}
        images = kind(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, **options)
        processor = hf.LlavaProcessor(
            images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
        )
        mode = "pad_square" if pad else "shortest_crop"
        family = get_family("llava", tokenizer=words, image={"size": 56, "mode": mode})
        compare(processor, family, "<image>", ["pixel_values"])


def test_llava_onevision() -> None:
    words = tokenizer(image_token="<image>", video_token="<video>")
    grid = [[56 * i, 56 * j] for i in range(1, 4) for j in range(1, 4)]
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(
            size={"height": 56, "width": 56}, image_grid_pinpoints=grid, image_mean=[0.5] * 3, image_std=[0.5] * 3
        ),
        words,
        hf.LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56}),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )
    family = get_family(
        "llava_onevision", tokenizer=words, image={"size": 56, "pinpoints": grid, "anyres_max": 2, "patch": 14}
    )
    names = ["pixel_values", "image_sizes", "batch_num_images"]
    compare(processor, family, "<image>", names)
    two = [[PHOTOS[0], PHOTOS[1]], [PHOTOS[2]]]
    theirs = processor(
        text=["<image> and <image> differ", "<image> alone"],
        images=[[tensor(photo) for photo in photos] for photos in two],
        return_tensors="pt",
        padding=True,
        add_special_tokens=False,
    )
    ours = batch(family, [[image(PHOTOS[0]), " and ", image(PHOTOS[1]), " differ"], [image(PHOTOS[2]), " alone"]])
    same(ours, theirs, names)
    kept = theirs["attention_mask"].bool()
    assert ours["input_ids"][0].tolist() == theirs["input_ids"][kept].tolist()


def test_internvl() -> None:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(**named)
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(
            size={"height": 56, "width": 56},
            min_patches=1,
            max_patches=6,
            crop_to_patches=True,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        ),
        words,
        hf.InternVLVideoProcessor(size={"height": 56, "width": 56}),
        image_seq_length=4,
    )
    family = get_family("internvl", tokenizer=words, image={"size": 56, "max_tiles": 6})
    compare(processor, family, "<IMG_CONTEXT>", ["pixel_values"])


SPLIT = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
    **{f"row_{r}_{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)},
}


@pytest.mark.parametrize("splitting", [True, False])
def test_idefics3(splitting: bool) -> None:
    words = tokenizer(**SPLIT)
    processor = hf.Idefics3Processor(
        hf.Idefics3ImageProcessor(
            size={"longest_edge": 112}, max_image_size={"longest_edge": 28}, do_image_splitting=splitting
        ),
        words,
        image_seq_len=1,
    )
    family = get_family(
        "idefics3", tokenizer=words, image={"size": 28, "longest_edge": 112, "patch": 14, "splitting": splitting}
    )
    before, after = "a photo ", " of what"
    for photo in PHOTOS:
        theirs = processor(
            text=[f"{before}<image>{after}"], images=[[tensor(photo)]], return_tensors="pt", add_special_tokens=False
        )
        ours = batch(family, [[before, image(photo), after]])
        same(ours, theirs, ["input_ids", "pixel_values", "pixel_attention_mask"])
    # A pack is one row of all its pictures, where the processor makes a row for each sample.
    many = batch(family, [[before, image(photo), after] for photo in PHOTOS])
    assert many["pixel_values"].shape[:2] == (
        1,
        sum(batch(family, [[image(p), "x"]])["pixel_values"].shape[1] for p in PHOTOS),
    )


@pytest.mark.parametrize("crops", [False, True])
def test_gemma3(crops: bool) -> None:
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(
            size={"height": 112, "width": 112},
            do_pan_and_scan=crops,
            pan_and_scan_min_crop_size=32,
            pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
        ),
        words,
        image_seq_length=4,
    )
    family = get_family("gemma3", tokenizer=words, image={"size": 112, "crops": crops, "min_crop": 32})
    for photo in PHOTOS:
        theirs = processor(
            text=["see <start_of_image> what"],
            images=[[tensor(photo)]],
            return_tensors="pt",
            add_special_tokens=False,
            do_pan_and_scan=crops,
            pan_and_scan_min_crop_size=32,
        )
        ours = batch(family, [["see ", image(photo), " what"]])
        same(ours, theirs, ["pixel_values"])
        same(ours, theirs, ["input_ids"])
        placeholders = ours["input_ids"] == words.convert_tokens_to_ids("<image_soft_token>")
        assert (ours["token_type_ids"].bool() == placeholders).all()


def test_paligemma() -> None:
    words = tokenizer(image_token="<image>")
    images = hf.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, words)
    family = get_family("paligemma", tokenizer=words, image={"size": 56})
    for photo in PHOTOS:
        theirs = processor(text=["<image>what"], images=[tensor(photo)], return_tensors="pt")
        ours = batch(family, [[image(photo), "<s>what\n"]])
        same(ours, theirs, ["input_ids", "pixel_values"])
        assert ours["position_ids"][0, 0] == 1
        assert ours["token_type_ids"][0].tolist() == [0] * (ours["input_ids"].shape[1] - 1) + [1]


def test_pixtral() -> None:
    words = tokenizer(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    processor = hf.PixtralProcessor(
        hf.PixtralImageProcessor(size={"longest_edge": 120}, patch_size={"height": 16, "width": 16}),
        words,
        patch_size=16,
    )
    family = get_family("pixtral", tokenizer=words, image={"size": 120})
    compare(processor, family, "[IMG]", ["pixel_values", "image_sizes"])


def test_siglip2_and_pix2struct() -> None:
    words = tokenizer()
    for name, images, names in [
        (
            "siglip2",
            hf.Siglip2ImageProcessor(max_num_patches=32),
            ["pixel_values", "pixel_attention_mask", "spatial_shapes"],
        ),
        ("pix2struct", hf.Pix2StructImageProcessor(max_patches=32), ["flattened_patches", "attention_mask"]),
    ]:
        family = get_family(name, tokenizer=words, image={"budget": 32})
        theirs = images([tensor(photo) for photo in PHOTOS], return_tensors="pt")
        rows = [batch(family, [[image(photo), "what"]]) for photo in PHOTOS]
        same({key: torch.cat([row[key] for row in rows]) for key in names}, theirs, names)
    with pytest.raises(ValueError, match="switch their isolation off"):
        batch(family, [[image(photo), "what"] for photo in PHOTOS])


@pytest.mark.parametrize("splitting", [True, False])
def test_lfm2_vl(splitting: bool) -> None:
    named = {
        "image_token": "<image>",
        "image_start_token": "<|image_start|>",
        "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
        **{f"row_{r}_{c}": f"<|img_row_{r}_col_{c}|>" for r in range(1, 7) for c in range(1, 7)},
    }
    words = tokenizer(**named)
    small = {"min_tiles": 2, "max_tiles": 6, "tile_size": 32, "min_image_tokens": 1, "max_image_tokens": 9}
    processor = hf.Lfm2VlProcessor(
        hf.Lfm2VlImageProcessor(encoder_patch_size=8, do_image_splitting=splitting, **small), words
    )
    family = get_family(
        "lfm2_vl",
        tokenizer=words,
        image={"size": 32, "patch": 8, "max_tiles": 6, "min_tokens": 1, "max_tokens": 9, "splitting": splitting},
    )
    compare(processor, family, "<image>", ["pixel_values", "pixel_attention_mask", "spatial_shapes"])


def test_lfm2_sizes() -> None:
    theirs = hf.Lfm2VlImageProcessor()
    draw = np.random.default_rng(3)
    for height, width in [(1, 1), (1, 4000), *np.exp(draw.uniform(0, 8.5, (2500, 2))).astype(int).tolist()]:
        view = Lfm2Tiles()
        wide, tall = theirs.smart_resize(height, width, 2, 64, 256, 16)
        if wide * tall > 256 * 32**2:
            with pytest.raises(DataError, match="aspect_extreme"):
                view.plan((height, width))
            continue
        assert view.whole(height, width) == (tall, wide)
        large = theirs._is_image_too_large(height, width, 256, 16, 2, 2.0)
        columns, rows, *_ = theirs._get_grid_layout(height, width, 2, 10, 512) if large else (1, 1)
        assert view.plan((height, width)).grid == (1, rows, columns), (height, width)


TALK = (
    "{% for m in messages %}{{ m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{{ '<start_of_image>' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>\n' }}{% endfor %}"
)


@pytest.mark.parametrize("crops", [False, True])
def test_line_breaks_beside_a_picture_are_tokenised_with_the_template(crops: bool) -> None:
    """`user\n` and `\n\n` before the picture have one token for three line breaks in many vocabularies."""
    words = tokenizer(image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>")
    processor = hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size={"height": 112, "width": 112}), words, image_seq_length=4
    )
    family = get_family("gemma3", tokenizer=words, image={"size": 112, "crops": crops, "min_crop": 32})
    template = get_template(
        "chat", tokenizer=words, markers=family.markers, around=family.around, options={"chat_template": TALK}
    )
    media = [image(photo)[0] for photo in PHOTOS[:2]]
    parts = (*media, Text(text="\nDiffer?", role="user"), Text(text="Yes.", role="assistant"))
    sample = Sample(key="a", parts=parts, origin=Origin(uri="tests", row=0))
    (encoded,) = encode([sample], words, template)
    assert isinstance(encoded, Encoded)
    ours = expand(family, encoded, plan_media(family, media))
    content = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "\nDiffer?"}]
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]
    theirs = processor(
        text=[words.apply_chat_template(said, chat_template=TALK, tokenize=False)],
        images=[[tensor(photo) for photo in PHOTOS[:2]]],
        return_tensors="pt",
        add_special_tokens=False,
        do_pan_and_scan=crops,
        pan_and_scan_min_crop_size=32,
        pan_and_scan_max_num_crops=4,
        pan_and_scan_min_ratio_to_activate=1.2,
    )
    found = theirs["input_ids"][0].tolist()
    begun = ours.ids.tolist()[len(ours.ids) - len(found) :]  # the processor adds no start token here
    assert begun == found
    assert words.decode([token for span in ours.spans for token in ours.ids[span.start : span.stop]]) == "Yes.</s>"
