"""What the streaming examples share: packs of pictures and texts, a tiny LLaVA that takes them, a batch for it."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmdata import StreamingDataset, open_dataset
from mmdata.collate import PackedCollator, model_inputs
from mmdata.families import get_family
from mmtrain import attention, tokenizer
from mmtrain.models import tiny
from mmtrain.models.spec import TinySpec, TowerSpec

SIZE = TinySpec(
    image_size=28,
    vision=TowerSpec(hidden=16, layers=1, heads=2),
    language=TowerSpec(hidden=32, layers=1, heads=2),
)
Row = tuple[list[str], float]
"""A pass of the model: the keys that it saw, and its loss."""


def make_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """A small one, trained from the dataset's captions; yours comes from `AutoTokenizer.from_pretrained`."""
    return tokenizer.train(open_dataset(folder), tokenizer.TokenizerSpec(vocab_size=400))


def open_packs(folder: str, words: PreTrainedTokenizerBase, run_folder: str, global_batch: int = 2) -> StreamingDataset:
    """An endless stream of packs of 96 tokens: the trainer's steps end the run. Rank and ranks are
    torch.distributed's."""
    image = {"size": SIZE.image_size, "patch": SIZE.patch_size, "crop": SIZE.image_size}
    family = get_family("llava", tokenizer=words, image=image)
    return StreamingDataset(
        folder, family=family, max_length=96, epochs=None, seed=0, global_batch=global_batch, run_folder=run_folder
    )


def make_model(words: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A LLaVA of random weights whose attention keeps the samples of a row apart (`cu_seq_lens_q`)."""
    torch.manual_seed(0)
    model = tiny.build(SIZE, words)
    attention.register()  # the exact twin of a varlen kernel on a CPU; on a GPU also "flash_attention_2" would do
    model.set_attn_implementation(attention.NAME)
    model.model.vision_tower.post_layernorm.requires_grad_(False)  # LLaVA takes what lies before it
    return model


def batch_of(pack: Any) -> dict[str, Any]:
    """The arguments of the model's `forward`, and the samples' keys."""
    batch = PackedCollator(pad_id=0)(pack)
    return {**model_inputs(batch), "keys": batch["keys"]}
