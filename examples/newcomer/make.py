"""Make up data and a model to try the three commands on: python -m examples.newcomer.make FOLDER [--pictures N].

FOLDER/train.json and FOLDER/images are what LLaVA's data look like, with some mistakes that real ones have;
FOLDER/model is a LLaVA of 0.2 M random weights, as a Hugging Face folder. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from examples.learn.make import SHAPES, shape

SIDE, PATCH, HIDDEN = 32, 8, 64
"""Pixels of a picture's side and of a patch's: 16 tokens. Numbers of a hidden state, in tower and language model."""
CHAT = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def talk(name: str, image: str | list[str] | None, *turns: str) -> dict[str, Any]:
    """A sample in LLaVA's form; questions and answers take turns."""
    said = [{"from": ("human", "gpt")[at % 2], "value": text} for at, text in enumerate(turns)]
    return {"id": name, **({} if image is None else {"image": image}), "conversations": said}


def jpeg(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    return file.getvalue()


def make_data(folder: Path, pictures: int) -> list[dict[str, Any]]:
    """Pictures of shapes, what is said of them, and mistakes; answers the samples, as `train.json` has them."""
    samples = []
    names = []
    for number in range(pictures):
        picture, called, _ = shape(np.random.default_rng(number), len(SHAPES))
        # In folders of their own, and with suffixes as cameras write them: both are fine.
        names.append(f"images/{number // 100}/{number:04d}.{'JPG' if number % 3 else 'jpg'}")
        path = folder / names[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(picture))
        samples.append(talk(f"shape-{number}", names[-1], "<image>\nWhat is in the picture?", f"It is {called}."))
    first, second = names[:2]
    samples += [
        talk("two-turns", first, "<image>\nIs it a photo?", "No, a drawing.", "Are you sure?", "Yes."),
        talk("in-the-middle", first, "Look at <image> and tell me: is it a photo?", "No, a drawing."),
        talk("two-pictures", [first, second], "<image>\n<image>\nAre these photos?", "No, drawings."),
        talk("no-picture", None, "What do you see?", "Nothing: there is no picture."),
    ]
    half = folder / "images" / "half.jpg"
    half.write_bytes((folder / first).read_bytes()[:700])
    samples += [  # what the build is to find
        talk("missing", "images/nowhere.jpg", "<image>\nWhat is in the picture?", "Nobody knows."),
        talk("half", "images/half.jpg", "<image>\nWhat is in the picture?", "The upper half of something."),
        talk("too-many-places", first, "<image>\n<image>\nWhich is larger?", "The first."),
        talk("elsewhere", "../private.jpg", "<image>\nWhat is in the picture?", "A secret."),
        samples[0],
    ]
    (folder / "train.json").write_text(json.dumps(samples, indent=1))
    return samples


def make_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with a chat template."""
    special = ["<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    made.chat_template = CHAT
    return made


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A LLaVA of random weights, its tokenizer and its image processor, as one folder."""
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 3 * HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=SIDE, patch_size=PATCH),
        text_config=LlamaConfig(
            **sizes,
            **ids,
            num_key_value_heads=4,
            vocab_size=len(tokenizer),
            initializer_range=0.2,  # the head is not trained: with 0.02 no adapter could make it sure of a word
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=square).save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    about = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m examples.newcomer.make", description=about)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=300)
    options = parser.parse_args(arguments)
    samples = make_data(options.folder, options.pictures)
    texts = [turn["value"] for sample in samples for turn in sample["conversations"]]
    make_model(options.folder / "model", make_tokenizer(texts))
    print(f"wrote  {options.folder}: train.json with {len(samples)} samples, images/, model/")


if __name__ == "__main__":
    main()
