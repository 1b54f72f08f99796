"""Pictures that a language model draws as latents: one after the other behind a prompt, and pixels by the tokeniser."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmdata import rng
from mmdata.collate import PackedCollator, model_inputs
from mmdata.errors import SpecError
from mmdata.labels import IGNORE
from mmdata.stream.dataset import StreamingDataset
from mmdata.stream.device import each_tensor
from mmdata.types import Packed, Slot, World
from mmtrain.answers import generating
from mmtrain.auxiliary import heads_of
from mmtrain.certificate import BORDERS
from mmtrain.models.connectors import Patches
from mmtrain.models.heads.flow import FlowHead
from mmtrain.picture_tokens.generate import as_image


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture that was asked for by a prompt, and what else is known of the sample."""

    key: str
    prompt: str
    wanted: str
    """`caption` of the sample's meta; empty for others."""
    latents: torch.Tensor
    """float32 [cells, width]"""
    picture: Image.Image


def head_of(model: Any) -> FlowHead | None:
    """The head that draws latents; None for a model that has none."""
    found = heads_of(model).get("flow")
    return found if isinstance(found, FlowHead) else None


@torch.no_grad()
def picture_latents(model: Any, inputs: dict[str, Any], noise: torch.Tensor) -> torch.Tensor:
    """Latents float32 [cells, width] behind a prompt (ids, mask and media, as `forward` takes them), each of its row of
    `noise` [cells, width] and of the state of the language model that has seen all before it."""
    head, body = head_of(model), model.base_model
    assert head is not None, "a model without a flow head"
    given, length, past = dict(inputs), inputs["input_ids"].shape[1], None
    table = model.get_input_embeddings().weight
    mark = torch.full((1, 1), model.config.image_token_id, device=table.device)  # what a latent is to experts
    found: list[torch.Tensor] = []
    for row in noise:
        output = body(**given, use_cache=True, past_key_values=past)
        past = output.past_key_values
        found.append(head.drawn(output.last_hidden_state[0, -1:], row[None].to(table.device)))
        seen = body.vision_connector(Patches(rows=found[-1].to(table.dtype), lengths=(1,)))
        length += 1
        mask = torch.ones(1, length, dtype=torch.long, device=table.device)
        given = {"input_ids": mark, "inputs_embeds": seen[None], "attention_mask": mask}
        given["position_ids"] = mask.sum(1, keepdim=True) - 1
    return torch.cat(found)


def drawn(
    model: Any,
    tokenizer: Any,
    stream: StreamingDataset,
    count: int,
    *,
    temperature: float,
    seed: int,
    device: torch.device,
) -> Iterator[Drawn]:
    """Pictures for the first `count` samples of a stream of which an answer draws one; all before it is given.
    `temperature` multiplies the noise that they begin as. Raises SpecError for a model without a flow head."""
    head = head_of(model)
    if head is None:
        raise SpecError(
            "--tokeniser: the model has no head that draws latents (model.heads.flow); name that of its words"
        )
    model.eval()
    with generating(model):
        for packed, slot, meta in asked(stream):
            if count <= 0:
                return
            count -= 1
            key = packed.keys[0]
            draw = torch.Generator().manual_seed(int(rng.generator("picture", seed, key).integers(2**62)))
            noise = temperature * torch.randn(slot.tokens, head.latent, generator=draw)
            inputs = _inputs(packed, slot, device)
            latents = picture_latents(model, inputs, noise)
            pixels = model.base_model.vision_tower.decode(latents[None])[0].float()
            prompt = tokenizer.decode(inputs["input_ids"][0].tolist(), skip_special_tokens=True).strip()
            yield Drawn(
                key=key, prompt=prompt, wanted=str(meta.get("caption", "")), latents=latents, picture=as_image(pixels)
            )


def asked(stream: StreamingDataset) -> Iterator[tuple[Packed, Slot, Any]]:
    """The samples of a stream of which an answer draws a picture, that picture's place, and their meta: of each the
    first of which the token before is trained. Samples with other media than images are passed over."""
    alone = StreamingDataset(stream.spec, family=stream.family, yields="encoded", world=World(), global_batch=1)
    for deal in alone.deals():
        packed = alone.read(deal)
        assert isinstance(packed, Packed), packed
        if packed.masked or not packed.keys or deal.pack is None or any(each.kind != "image" for each in packed.slots):
            continue
        slots = [slot for slot in packed.slots if slot.start and packed.labels[slot.start - 1] != IGNORE]
        if slots:
            item = deal.pack.items[0]
            yield packed, slots[0], alone.datasets[item.dataset].sample(item.position, media=False).meta


def _inputs(packed: Packed, slot: Slot, device: torch.device) -> dict[str, Any]:
    """What `forward` takes of all that is before a picture. Media of later slots are left out."""
    stop, kept = slot.start, [each for each in packed.slots if each.start < slot.start]
    pixels = {name: values[: len(kept)] for name, values in packed.media.items() if kept}
    before = dataclasses.replace(
        packed,
        input_ids=packed.input_ids[:stop],
        labels=np.full(stop, IGNORE, np.int64),
        loss_weights=np.zeros(stop, np.float32),
        position_ids=packed.position_ids[..., :stop],
        cu_seqlens=np.array([0, stop], np.int32),
        slots=tuple(kept),
        media=pixels,
        token_classes=None,
    )
    left_out = {*BORDERS, "labels", "position_ids", "use_cache"}
    inputs = {name: value for name, value in model_inputs(PackedCollator()([before])).items() if name not in left_out}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return dict(each_tensor(inputs, lambda tensor: tensor.to(device)))
