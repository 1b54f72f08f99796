"""What a step costs in floating point operations, from a model's config and the lengths in its batches; and peaks.

Products of matrices only, two operations for a product and its sum, as torch's FlopCounterMode counts them: causal
attention counts in full (as in PaLM's definition of MFU, Chowdhery et al. 2022, appendix B). Attention costs the sum of
the squares of segments, not the square of the row. What is run again to save memory is not counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmdata.labels import IGNORE
from mmtrain.components import aliases
from mmtrain.models.connectors import read
from mmtrain.models.connectors.counted import Work, work
from mmtrain.models.fusion.counted import share_of_experts
from mmtrain.models.fusion.counted import work as work_of_fusion
from mmtrain.models.layers import KERNEL_WIDTHS
from mmtrain.rows import borders

PEAKS = {
    "H100 PCIe": 756e12,  # NVIDIA H100 datasheet, bf16 tensor cores, dense (half of what it gives with sparsity)
    "H100 NVL": 835e12,
    "H100": 989.4e12,  # SXM
    "H200": 989.4e12,  # NVIDIA H200 datasheet
    "B200": 2250e12,  # NVIDIA DGX B200 datasheet, 36 petaFLOPS sparse of 8
    "A100": 312e12,  # NVIDIA A100 datasheet
    "A10G": 70e12,
    "A10": 125e12,
    "L40S": 362e12,  # NVIDIA L40S datasheet
    "L4": 121e12,
    "V100": 125e12,  # fp16: it has no bf16
    "RTX 4090": 165.2e12,  # NVIDIA Ada whitepaper, appendix A, with fp32 accumulation
    "RTX 3090": 71e12,
}
"""Operations per second in bf16, by what the device's name holds; the first that fits counts."""
GRIDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "mmtrain_native")
"""Models with towers for grids of patches whose count was compared with torch's."""
CLASS_TOKENS = {
    "clip_vision_model": 1,
    "internvl_vision": 1,
    "siglip_vision_model": 0,
    "idefics3_vision": 0,
    "smolvlm_vision": 0,
}
"""Towers for pictures of one size whose count was compared with torch's: what each picture has beside its patches."""
FILLED = ("idefics3", "smolvlm", "llava_next", "llava_onevision")
"""Models that are given as many tiles for every picture, and leave out those that are 0."""
NAVIT = "mmtrain_navit"
"""Our own tower."""
WINDOWED = ("qwen2_5_vl", "qwen2_5_vl_vision")


def peak(name: str) -> float | None:
    """What a device of this name (`torch.cuda.get_device_name`) can do per second; None where that is not known.

    >>> peak("NVIDIA H100 80GB HBM3"), peak("NVIDIA H100 PCIe"), peak("Xeon")
    (989400000000000.0, 756000000000000.0, None)
    """
    return next((value for part, value in PEAKS.items() if part in name), None)


@dataclass(frozen=True, slots=True)
class Tower:
    """What a tower sees: `patches` of pixels (or frames of sound), `rows` of its layers, and for each layer the sum of
    the squares of the sequences in which rows see each other. `features` leave its connector's first product."""

    patches: int
    rows: int
    squares: tuple[int, ...]


def train_flops(model: Any, batch: Mapping[str, Any]) -> float | None:
    """Operations of the forward and backward pass of a batch; None for a model whose towers are not known here."""
    if getattr(model, "config", None) is None:
        return None
    lengths = borders(dict(batch)).diff().long().tolist()
    targets = int(((batch["labels"].flatten() != IGNORE) & (batch["loss_weights"].flatten() != 0)).sum())
    towers: dict[str, Tower] = {}
    for part, measure in (("vision", _vision), ("audio", _audio)):
        found = measure(model.config, batch)
        if found is None:
            return None
        towers[part] = found
    text, connector = model.config.get_text_config(), _connector(model, batch)
    objective = getattr(model.config, "objective", "language")
    if objective == "qformer":
        return None  # texts, and negatives that are drawn
    fused, expert = work_of_fusion(model, batch, _learning(batch)), share_of_experts(model.config)
    if fused is None or expert is None or getattr(model.config, "heads", None):
        return None
    if objective == "contrastive":
        targets = 0
    if getattr(model.config, "video", None):
        return None  # which frames are a video is not in the lengths
    if any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None  # which experts a token meets is not in the lengths
    heads = text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    trained, read = _trained(model), _read(model.config)
    total = 0.0
    for name, module, part in _products(model):
        rows, needs = _rows(model, name, module, part, sum(lengths), targets, towers), _upstream(trained, part)
        if connector is not None and name.startswith(CONNECTOR):
            rows = connector.rows(name.removeprefix(CONNECTOR))
        if part == "fusion":
            rows = fused.rows(name.partition("fusion.")[2])
        if rows is None:
            return None
        if ".mlp.experts." in name:
            rows *= expert
        first = isinstance(module, nn.Conv2d | nn.Conv3d) or name.endswith("conv1") or ".patch_embed" in name
        first = first or (name == f"{CONNECTOR}proj" and not trained.get("vision"))  # whose tower is still, or none
        passes = 1 + module.weight.requires_grad + (needs and not first)
        if part == "vision" and (layer := _LAYER.search(name)) and int(layer[1]) >= read:
            passes = 0 if model.config.vision_config.model_type == NAVIT else 1  # ours stops there
        total += 2.0 * module.weight.numel() * rows * passes
    for name, matrix in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):  # Gemma 3 multiplies by it outside a module
            rows = int(model.config.mm_tokens_per_image) * _pictures(batch)
            total += 2.0 * matrix.numel() * rows * (1 + matrix.requires_grad + _upstream(trained, "vision"))
    squares = sum(length**2 for length in lengths) * text.num_hidden_layers
    total += 4.0 * squares * width * (3.5 if _upstream(trained, "language") else 1)
    if connector is not None:
        total += connector.attention * (3.5 if _upstream(trained, "connector") else 1) + connector.choices
        total += connector.products * (1 + trained["connector"] + _upstream(trained, "vision"))
        total += connector.sums * (1 + _upstream(trained, "vision"))
    total += fused.attention * (3.5 if _upstream(trained, "fusion") else 1) + 3 * fused.products
    for part, tower in towers.items():
        inside = _tower_width(model.config, part, batch)
        again = read if part == "vision" else math.inf
        for at, seen in enumerate(tower.squares):
            total += 4.0 * seen * inside * (3.5 if at < again and _upstream(trained, part) else 1)
    return total


def _learning(batch: Mapping[str, Any]) -> int:
    """Samples in which something is trained."""
    trained = ((batch["labels"].flatten() != IGNORE) & (batch["loss_weights"].flatten() != 0)).long()
    pieces = trained.split(borders(dict(batch)).diff().long().tolist())
    return sum(bool(piece.any()) for piece in pieces)


CONNECTOR = "model.vision_connector."
"""Where the native model has the connector of its vision tower."""


def _connector(model: Any, batch: Mapping[str, Any]) -> Work | None:
    """What the native model's vision connector does; None for other models."""
    config = model.config
    if config.model_type != "mmtrain_native" or config.vision_config is None:
        return None
    lengths = [length for _, pictures in model.base_model.shown(batch) for length in pictures]
    width, out = config.vision_config.hidden_size, config.get_text_config().hidden_size
    sides = [math.isqrt(length) for length in lengths]
    grids = [(h, w) for t, h, w in _values(batch, "image_grid_thw") for _ in range(t)] or list(
        zip(sides, sides, strict=True)
    )
    return work(read(config.connector), config.merge, width, out, lengths, grids)


_LAYER = re.compile(r"\.(?:layers|layer|blocks)\.(\d+)\.")
ORDER = ("vision", "audio", "connector", "fusion", "language", "head")


def _read(config: Any) -> float:
    """How many of the vision tower's layers have a gradient: those before the one whose output is taken."""
    taken: Any = getattr(config, "vision_feature_layer", None)
    taken = getattr(config, "vision_layer", -1) if taken is None else taken
    own = _config(config, "vision")
    layers = getattr(own, "num_hidden_layers", math.inf)
    each = [taken] if isinstance(taken, int) else list(taken)
    return max(layers + 1 + at if at < 0 else at for at in each)


def _upstream(trained: Mapping[str, bool], part: str) -> bool:
    """Whether what enters a part's products carries a gradient."""
    before = {"vision": ("vision",), "audio": ("audio",)}.get(part, ORDER[: ORDER.index(part) + 1])
    return any(trained.get(each, False) for each in before)


def _trained(model: Any) -> dict[str, bool]:
    found: dict[str, bool] = {}
    named = aliases(model)
    for name, parameter in model.named_parameters():
        part = named[name].split(".")[0]
        found[part] = found.get(part, False) or parameter.requires_grad
    return found


def _products(model: Any) -> list[tuple[str, Any, str]]:
    named = aliases(model)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    head = model.get_output_embeddings()
    found = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            alias = named.get(f"{name}.weight")
            part = "head" if module is head or alias is None else alias.split(".")[0]
            found.append((name, module, part))
    return found


def _rows(
    model: Any, name: str, module: Any, part: str, tokens: int, targets: int, towers: Mapping[str, Tower]
) -> float | None:
    """How many rows go through a product."""
    if part in ("language", "fusion"):
        return tokens
    if part == "head":
        return targets
    if part == "connector":
        of = "audio" if "audio" in name or not _config(model.config, "vision") else "vision"
        return _connected(model.config, name, module, towers[of], of)
    tower = towers[part]
    if isinstance(module, nn.Conv1d):
        return tower.patches if name.endswith("conv1") else (tower.patches + 1) // 2
    if isinstance(module, nn.Conv2d | nn.Conv3d) or ".patch_embed" in name:
        return tower.patches
    return tower.rows


def _connected(config: Any, name: str, module: Any, tower: Tower, part: str) -> int:
    """Rows of a connector: a square of patches becomes one by the first product that is that much wider."""
    merge = int(getattr(_config(config, part), "spatial_merge_size", 0) or 0) ** 2
    if part == "audio":
        return tower.rows // 2
    if not merge:
        names = ("scale_factor", "spatial_merge_size", "merge")  # of Idefics3, Mistral 3 and our own
        scale = next((value for name in names if (value := getattr(config, name, None))), 1)
        shuffle = getattr(config, "downsample_ratio", None)
        merge = round(1 / shuffle**2) if shuffle else int(scale) ** 2
    seen = tower.rows if getattr(_config(config, part), "model_type", "") == "pixtral" else tower.patches
    return seen // merge


def _config(config: Any, part: str) -> Any:
    return getattr(config, f"{part}_config", None)


def _tower_width(config: Any, part: str, batch: Mapping[str, Any]) -> int:
    """How wide all heads of a tower are together."""
    own = _config(config, part)
    if own is None:
        return 0
    if own.model_type == NAVIT:
        each = own.head_width or own.hidden_size // own.num_attention_heads
        if own.positions == "bias":  # a value for each row and column of the largest picture
            more = sum(_largest(batch))
            each += more + -(each + more) % KERNEL_WIDTHS
        return int(each * own.num_attention_heads)
    for name in ("embed_dim", "d_model", "hidden_size"):
        if isinstance(value := getattr(own, name, None), int):
            return value
    raise AssertionError(f"{type(own).__name__} has no width")


def _largest(batch: Mapping[str, Any]) -> tuple[int, int]:
    """The most rows and the most columns of a batch's pictures."""
    if "patch_coordinates" in batch:
        rows, columns = (batch["patch_coordinates"].amax(0) + 1).tolist()
        return rows, columns
    grids = _values(batch, "image_grid_thw")
    return max((h for _, h, _ in grids), default=0), max((w for _, _, w in grids), default=0)


def _vision(config: Any, batch: Mapping[str, Any]) -> Tower | None:
    own = _config(config, "vision")
    none = Tower(0, 0, ())
    if own is None:
        return none
    layers = next(int(getattr(own, name)) for name in ("depth", "num_hidden_layers", "layers") if hasattr(own, name))
    grids = [row for name in ("image_grid_thw", "video_grid_thw") for row in _values(batch, name)]
    if grids or any(name.endswith(("_grid_thw", "patch_counts")) for name in batch):
        if config.model_type not in GRIDS:
            return None
        if "patch_counts" in batch:  # of each picture, where patches are dropped
            grids = [(1, 1, int(count)) for count in batch["patch_counts"].tolist()]
        if own.model_type == NAVIT:
            layers = min(layers, max(0, layers + 1 + config.vision_layer))
            if own.mixup:  # each picture again, at half the size
                grids = [*grids, *((t, -(-h // 2), -(-w // 2)) for t, h, w in grids)]
        patches = sum(math.prod(grid) for grid in grids)
        full = sum(t * (h * w) ** 2 for t, h, w in grids)
        squares = (full,) * layers
        if own.model_type in WINDOWED:
            window = sum(t * _windows(h, w, own) for t, h, w in grids)
            squares = tuple(full if at in own.fullatt_block_indexes else window for at in range(layers))
        return Tower(patches, patches, squares)
    arrays = _pixels(batch)
    if not arrays:
        return none
    if own.model_type == "pixtral":
        side = int(own.patch_size)
        each = [(h // side) * (w // side) for h, w in _values(batch, "image_sizes")]
        padded = sum(len(array) * (array.shape[-2] // side) * (array.shape[-1] // side) for array in arrays)
        return Tower(padded, sum(each), (sum(each) ** 2,) * layers)  # the convolution sees the padding
    if own.model_type not in CLASS_TOKENS or config.model_type == "mmtrain_native":
        return None
    if own.model_type == "siglip_vision_model" and own.vision_use_head:  # it pools what nothing reads
        return None
    side = own.patch_size if isinstance(own.patch_size, int) else own.patch_size[0]
    more = CLASS_TOKENS[own.model_type]
    patches = rows = squares_ = 0
    for array in arrays:
        tiles = array.reshape(-1, *array.shape[-3:])
        count = int((tiles.flatten(1) != 0).any(1).sum()) if config.model_type in FILLED else len(tiles)
        here = (array.shape[-2] // side) * (array.shape[-1] // side)
        patches += count * here
        rows += count * (here + more)
        squares_ += count * (here + more) ** 2
    return Tower(patches, rows, (squares_,) * layers)


def _pixels(batch: Mapping[str, Any]) -> list[torch.Tensor]:
    return [batch[name] for name in batch if name.startswith("pixel_values") and torch.is_tensor(batch[name])]


def _pictures(batch: Mapping[str, Any]) -> int:
    """Pictures of a batch, each tile of one that is cut counted."""
    return sum(math.prod(array.shape[:-3]) for array in _pixels(batch))


def _windows(height: int, width: int, own: Any) -> int:
    """Sum of the squares of a frame's windows, cut from the top left in blocks of merged patches."""
    merge = int(own.spatial_merge_size)
    side = int(own.window_size) // int(own.patch_size) // merge
    down, right = _cut(height // merge, side), _cut(width // merge, side)
    return sum((a * b * merge**2) ** 2 for a in down for b in right)


def _cut(length: int, side: int) -> list[int]:
    return [min(side, length - at) for at in range(0, length, side)]


def _audio(config: Any, batch: Mapping[str, Any]) -> Tower | None:
    own = _config(config, "audio")
    if own is None:
        return Tower(0, 0, ())
    features = batch.get("input_features")
    if features is None:
        return Tower(0, 0, ())
    told = getattr(config, "hearing", None) or {}
    if features.ndim != 3 or told.get("hz", 25) != 25 or told.get("reduce") == "convolution" or told.get("prosody"):
        return None
    count, _, frames = features.shape
    if own.model_type == "mmtrain_varlen_audio":
        halves = [(int(each) + 1) // 2 for each in batch["audio_frames"].tolist()]
        squares = sum(half**2 for half in halves)
        return Tower(count * frames, sum(halves), (squares,) * int(own.num_hidden_layers))
    if own.model_type != "qwen2_audio_encoder":
        return None
    after = frames // 2
    return Tower(count * frames, count * after, (count * after**2,) * int(own.encoder_layers))


def _values(batch: Mapping[str, Any], name: str) -> Sequence[Sequence[int]]:
    value = batch.get(name)
    return [] if value is None else value.tolist()
