"""GGUF files: the metadata and the tensors of a language model, dequantised; llama's become a Hugging Face folder.

Read by the format's own description (ggml: docs/gguf.md) and by what ggml writes as Q4_1 and Q8_0; nothing else is
taken. `tests/mmtrain/test_pretrained.py` holds it to the `gguf` package.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAGIC = b"GGUF" + struct.pack("<I", 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
F32, Q4_1, Q8_0 = 0, 3, 8
BLOCK = 32
"""Values that share a scale."""
CONTROL = 3
"""The type of a special token."""
NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""llama.cpp's names of a layer's parts, and Hugging Face's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gguf:
    """A file's metadata, and its tensors as float32 with the outermost dimension first."""

    meta: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


def read(data: bytes) -> Gguf:
    """Raises ValueError for what is no GGUF of version 3, or holds tensors of other types."""
    reader = _Reader(data)
    if data[:8] != MAGIC:
        raise ValueError(f"no GGUF file of version 3: it begins with {data[:8]!r}")
    reader.at = len(MAGIC)
    count, entries = reader.number("Q"), reader.number("Q")
    meta = {reader.text(): reader.value(reader.number("I")) for _ in range(entries)}
    described = []
    for _ in range(count):
        name = reader.text()
        shape = [reader.number("Q") for _ in range(reader.number("I"))]
        described.append((name, shape[::-1], reader.number("I"), reader.number("Q")))
    align = int(meta.get("general.alignment", 32))
    start = -(-reader.at // align) * align
    return Gguf(
        meta=meta,
        tensors={name: _dequantised(data, start + at, shape, kind) for name, shape, kind, at in described},
    )


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner = self.number("I")
            return [self.value(inner) for _ in range(self.number("Q"))]
        return self.number(SCALARS[kind])


def _dequantised(data: bytes, at: int, shape: list[int], kind: int) -> np.ndarray:
    """Values of a tensor. A block of Q8_0 is a float16 scale and 32 int8; of Q4_1 a scale, a minimum, and 16 bytes
    whose lower halves are the first 16 values and whose upper halves the others: scale * value + minimum.

    >>> block = np.float16([0.5, 3]).tobytes() + bytes([0x21] * 16)
    >>> _dequantised(block, 0, [1, 32], Q4_1)[0, [0, 15, 16, 31]].tolist()
    [3.5, 3.5, 4.0, 4.0]
    """
    size = int(np.prod(shape))
    if kind == F32:
        return np.frombuffer(data, "<f4", size, at).reshape(shape)
    if kind == Q8_0:
        blocks = np.frombuffer(data, np.dtype([("d", "<f2"), ("q", "i1", BLOCK)]), size // BLOCK, at)
        return (blocks["d"].astype(np.float32)[:, None] * blocks["q"]).reshape(shape)
    if kind == Q4_1:
        form = np.dtype([("d", "<f2"), ("m", "<f2"), ("q", "u1", BLOCK // 2)])
        blocks = np.frombuffer(data, form, size // BLOCK, at)
        values = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=1)
        scaled = blocks["d"].astype(np.float32)[:, None] * values + blocks["m"].astype(np.float32)[:, None]
        return scaled.reshape(shape)
    raise ValueError(f"a tensor of type {kind}; F32 (0), Q4_1 (3) and Q8_0 (8) are known")


def llama(file: Gguf) -> LlamaForCausalLM:
    """The model of a file, float32. Raises ValueError for another architecture, RuntimeError for tensors that do not
    fit."""
    told = {name.removeprefix("llama."): value for name, value in file.meta.items() if name.startswith("llama.")}
    if file.meta.get("general.architecture") != "llama":
        raise ValueError(f"a {file.meta.get('general.architecture')} model; llama is known")
    heads, kv_heads = told["attention.head_count"], told["attention.head_count_kv"]
    config = LlamaConfig(
        vocab_size=len(file.meta["tokenizer.ggml.tokens"]),
        hidden_size=told["embedding_length"],
        intermediate_size=told["feed_forward_length"],
        num_hidden_layers=told["block_count"],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=told["context_length"],
        rms_norm_eps=told["attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": told["rope.freq_base"]},
        tie_word_embeddings="output.weight" not in file.tensors,
        **{f"{name}_token_id": file.meta[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos")},
    )
    state = {}
    for name, values in file.tensors.items():
        at = {"attn_q": heads, "attn_k": kv_heads}.get(name.split(".")[-2])
        # Copied: a view of the file's bytes cannot be written to.
        state[_renamed(name)] = torch.from_numpy(np.array(values if at is None else _halves(values, at)))
    model = LlamaForCausalLM(config)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)
    model.generation_config = GenerationConfig(
        **{f"{n}_token_id": getattr(config, f"{n}_token_id") for n in ("bos", "eos")}
    )
    return model


def _renamed(name: str) -> str:
    """
    >>> _renamed("blk.3.attn_q.weight"), _renamed("token_embd.weight")
    ('model.layers.3.self_attn.q_proj.weight', 'model.embed_tokens.weight')
    """
    ends = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
        "output.weight": "lm_head.weight",
    }
    if name in ends:
        return ends[name]
    _, layer, part, kind = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.{kind}"


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in Hugging Face's order: llama.cpp rotates neighbours (0 with 1), Hugging Face
    the two halves of a head.

    >>> _halves(np.arange(8)[:, None], 2)[:, 0].tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return weight.reshape(heads, -1, 2, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def tokenizer(file: Gguf) -> PreTrainedTokenizerFast:
    """The tokenizer of a file, with its chat template. Raises ValueError for one that is not SmolLM's: which texts are
    parted before merging is told by a name alone, and `smollm` parts every digit from its neighbours, then as GPT-2."""
    told = {name.removeprefix("tokenizer.ggml."): value for name, value in file.meta.items()}
    if (told["model"], told["pre"]) != ("gpt2", "smollm"):
        raise ValueError(f"a tokenizer {told['model']}, {told['pre']}; gpt2, smollm is known")
    words = told["tokens"]
    vocabulary = {word: number for number, word in enumerate(words)}
    # A byte-level piece holds no blank, so one parts the two.
    merges = [(left, right) for left, _, right in (merge.partition(" ") for merge in told["merges"])]
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [word for word, kind in zip(words, told["token_type"], strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=words[told["bos_token_id"]],
        eos_token=words[told["eos_token_id"]],
        unk_token=words[told["unknown_token_id"]],
        pad_token=words[told["padding_token_id"]],
        chat_template=file.meta["tokenizer.chat_template"],
        model_max_length=file.meta["llama.context_length"],
    )


def to_folder(data: bytes, folder: Path) -> None:
    """A file's model and tokenizer as a Hugging Face folder. Raises ValueError for what is no file of the kind."""
    file = read(data)
    llama(file).save_pretrained(folder)
    tokenizer(file).save_pretrained(folder)
