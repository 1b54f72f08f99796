"""Training steps on one GPU: packed by the varlen kernel, packed by a dense mask, and padded, the same samples.

`python -m benchmarks.gpu_training [--tokens 16384] [--steps 8] [--rounds 3] [--size base] [--compile]`. A LLaVA
of a SigLIP-sized tower and a Qwen2-sized decoder with random weights, bfloat16, activation checkpointing off, fused
AdamW; a length mix of text and images of 576 tokens (`benchmarks._lengths`). `useful` counts tokens of samples; the
padded batches hold as many tokens as the packs do, padding included. All lies in memory, nothing is decoded. Rounds
take turns. MFU is by the formula of PaLM's appendix B, 6 N + 12 L H Q T over the segments' own lengths (half of the
square where attention is causal), and the datasheet's peak.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks import _options
from benchmarks._interleaved import Row
from benchmarks._lengths import parts
from benchmarks.claims import beside, figure, write
from mmdata.collate import PackedCollator, PaddedCollator
from mmdata.labels import IGNORE
from mmdata.pack import pack_best_fit
from mmdata.types import Packed, Slot
from mmtrain import certificate
from mmtrain.losses import cross_entropy_sum

IMAGE, PAD, VOCABULARY = 1, 0, 32_000
SIDE, PATCH = 384, 16
PER_IMAGE = (SIDE // PATCH) ** 2
PEAK = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""Dense bfloat16, by NVIDIA's datasheets."""
SIZES = {"tiny": (128, 2, 2, 64, 1), "small": (512, 8, 8, 384, 6), "base": (1536, 28, 12, 768, 12)}
"""Decoder's width, layers, heads; tower's width, layers."""


def model(size: str, device: str) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration, Qwen2Config, SiglipVisionConfig

    width, layers, heads, tower, tower_layers = SIZES[size]
    vision: Any = SiglipVisionConfig(
        hidden_size=tower,
        intermediate_size=4 * tower,
        num_hidden_layers=tower_layers,
        num_attention_heads=tower // 64,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=2,
        max_position_embeddings=65_536,
        tie_word_embeddings=True,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    torch.manual_seed(0)
    with torch.device(device):
        made: Any = LlavaForConditionalGeneration(config)
    return made.to(torch.bfloat16).train()


def samples(count: int, longest: int) -> list[Packed]:
    """Each of one segment: its images first, then text, the second half of which is the answer."""
    draw = np.random.default_rng(0)
    made = []
    for number, (text, images, _) in enumerate(zip(*parts("llava576", count), strict=True)):
        images = int(min(images, (longest - 2) // PER_IMAGE))
        text = int(min(max(text, 2), longest - images * PER_IMAGE))
        ids = np.concatenate([np.full(images * PER_IMAGE, IMAGE), draw.integers(2, VOCABULARY, text)]).astype(np.int32)
        labels = np.full(len(ids), IGNORE, np.int64)
        labels[-(text // 2) :] = ids[-(text // 2) :]
        pixels = np.zeros((images, 3, SIDE, SIDE), np.float32)
        pixels[:] = draw.standard_normal((images, 1, 1, 1))
        made.append(
            Packed(
                input_ids=ids,
                labels=labels,
                loss_weights=np.ones(len(ids), np.float32),
                position_ids=np.arange(len(ids)),
                cu_seqlens=np.array([0, len(ids)], np.int32),
                slots=tuple(
                    Slot(kind="image", start=i * PER_IMAGE, length=PER_IMAGE, tokens=PER_IMAGE) for i in range(images)
                ),
                media={"pixel_values": pixels} if images else {},
                keys=(str(number),),
            )
        )
    return made


def packed(found: list[Packed], tokens: int) -> list[dict[str, Any]]:
    bins = pack_best_fit([len(sample.input_ids) for sample in found], tokens)
    return [PackedCollator(pad_id=PAD, pad_to=tokens)([found[i] for i in members]) for members in bins]


def padded(found: list[Packed], tokens: int) -> list[dict[str, Any]]:
    """Rows in the order of the data, as many as fit with their padding."""
    batches, rows = [], list[Packed]()
    for sample in found:
        if rows and max(len(r.input_ids) for r in [*rows, sample]) * (len(rows) + 1) > tokens:
            batches.append(PaddedCollator(pad_id=PAD)(rows))
            rows = []
        rows.append(sample)
    return [*batches, PaddedCollator(pad_id=PAD)(rows)]


def useful(batch: dict[str, Any]) -> int:
    """Tokens of samples."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return int((batch["input_ids"] != PAD).sum())


def lengths(batch: dict[str, Any]) -> list[int]:
    if "attention_mask" in batch:
        return [int(n) for n in batch["attention_mask"].sum(1)]
    sizes = batch["cu_seq_lens_q"].diff().tolist()
    return sizes[:-1] if useful(batch) < batch["input_ids"].shape[1] else sizes


def flops(config: Any, parameters: int, tower: int, batch: dict[str, Any]) -> float:
    """Forward and backward, of samples' tokens alone; attention is causal, so half of its square counts."""
    text = config.text_config
    images = batch["pixel_values"].shape[0] if "pixel_values" in batch else 0
    own = sum(lengths(batch))
    squares = sum(n * n for n in lengths(batch))
    vision = config.vision_config
    return (
        6.0 * parameters * own
        + 6.0 * text.num_hidden_layers * text.hidden_size * squares
        + 6.0 * tower * images * PER_IMAGE
        + 12.0 * vision.num_hidden_layers * vision.hidden_size * images * PER_IMAGE**2
    )


def runner(net: Any, strategy: str, optim: Any, device: str) -> Callable[[dict[str, Any]], None]:
    def step(batch: dict[str, Any]) -> None:
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
        if "pixel_values" in moved:
            moved["pixel_values"] = moved["pixel_values"].to(torch.bfloat16)
        if strategy == "padded":
            inputs = {k: v for k, v in moved.items() if k not in ("keys", "targets", "loss_weights")}
        else:
            inputs = certificate.prepared(moved, strategy, net.config, torch.bfloat16)  # type: ignore[arg-type]
        labels = inputs.pop("labels").flatten()
        hidden = net.base_model(**inputs).last_hidden_state.flatten(0, 1)
        weights = torch.ones_like(labels, dtype=torch.float32)
        loss = cross_entropy_sum(hidden, net.get_output_embeddings(), labels, weights) / max(1, batch["targets"])
        loss.backward()
        optim.step()
        optim.zero_grad(set_to_none=True)

    return step


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=sorted(SIZES), default="base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", default=["varlen", "masks", "padded"])
    parser.add_argument("--compile", action="store_true")
    options = _options.parse(parser, size="tiny", tokens=4096, steps=2)
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU here: --device cpu --quick shows that it runs")
    net = model(options.size, options.device)
    total = sum(p.numel() for p in net.parameters())
    tower = sum(p.numel() for p in net.get_encoder(modality="image").parameters())
    optim = torch.optim.AdamW(net.parameters(), lr=1e-5, fused=options.device == "cuda")
    found = samples(12 * options.steps * options.tokens // 1000, min(8192, options.tokens))
    batches = {"varlen": packed(found, options.tokens), "padded": padded(found, options.tokens)}
    batches["masks"] = batches["varlen"]
    name = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    print(f"{name}, torch {torch.__version__}: {total / 1e6:.0f} M parameters, batches of {options.tokens} tokens")
    rates: dict[str, list[float]] = {kind: [] for kind in options.only}
    usage: dict[str, list[float]] = {kind: [] for kind in options.only}
    memory: dict[str, float] = {}
    sources: dict[str, Iterator[dict[str, Any]]] = {kind: iter(batches[kind]) for kind in options.only}
    if options.compile:
        net.model.language_model.forward = torch.compile(net.model.language_model.forward, dynamic=True)
    for turn in range(options.rounds + 1):  # the first one warms up
        for kind in options.only:
            if kind == "padded":
                net.set_attn_implementation("sdpa")
            else:
                certificate.adopt(net, kind)
            step = runner(net, kind, optim, options.device)
            mine = []
            for _ in range(options.steps):
                batch = next(sources[kind], None)
                if batch is None:
                    sources[kind] = iter(batches[kind])
                    batch = next(sources[kind])
                mine.append(batch)
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            began = time.perf_counter()
            for batch in mine:
                step(batch)
            if options.device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            if turn:
                rates[kind].append(sum(map(useful, mine)) / seconds)
                work = sum(flops(net.config, total - tower, tower, batch) for batch in mine)
                usage[kind].append(work / seconds / PEAK.get(name, float("nan")))
            if options.device == "cuda":
                memory[kind] = torch.cuda.max_memory_allocated() / 2**30
    results = {}
    for kind in options.only:
        rate = statistics.median(rates[kind])
        share = sum(map(useful, batches[kind])) / sum(b["input_ids"].numel() for b in batches[kind])
        results[kind] = {
            "useful_tokens_per_second": round(rate),
            "range": [round(min(rates[kind])), round(max(rates[kind]))],
            "mfu": round(statistics.median(usage[kind]), 3),
            "useful_share": round(share, 3),
            "peak_gib": round(memory.get(kind, float("nan")), 1),
        }
        print(kind, results[kind], flush=True)
    if "padded" in rates:
        for kind in set(options.only) - {"padded"}:
            ratio = statistics.median(a / b for a, b in zip(rates[kind], rates["padded"], strict=True))
            results[kind]["over_padded"] = round(ratio, 2)
            print(f"{kind}: {ratio:.2f}x padded")
    rows: dict[str, list[Row]] = {
        kind: [{"useful_rate": rate, "mfu": share} for rate, share in zip(rates[kind], usage[kind], strict=True)]
        for kind in rates
    }
    what = f"training steps on {name}, {total / 1e6:.0f} M parameters, batches of {options.tokens:,} tokens"
    claims = [
        beside(f"{what}, useful tokens a second", rows, kind, other, by="useful_rate", headline=kind == "varlen")
        for kind, other in (("varlen", "padded"), ("varlen", "masks"))
        if kind in rows
    ]
    for kind, found_rows in rows.items():
        claims.append(figure(f"{what}, useful tokens a second", kind, [row["useful_rate"] for row in found_rows], "/s"))
        if name in PEAK:
            claims.append(figure(f"{what}, MFU", kind, [100 * row["mfu"] for row in found_rows], "%"))
    told = {"parameters": total, "tokens": options.tokens, "results": results, "peers": {"torch": torch.__version__}}
    write("gpu_training", claims, figures=rows, to=options.json, **told)


if __name__ == "__main__":
    main()
