"""Pictures that a language model writes: code by code after a prompt, and pixels by the tokeniser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from mmdata import rng
from mmdata.errors import SpecError
from mmdata.stream.dataset import StreamingDataset
from mmtrain.answers import generating, inputs_of, prompts, reference_of
from mmtrain.models.tokens import Vq
from mmtrain.picture_tokens import words


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A picture that was asked for by a prompt, and what else is known of the sample."""

    key: str
    prompt: str
    wanted: str
    """The text of the sample that asks for it, as `encode` wrote it; empty for others."""
    codes: list[int]
    picture: Image.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Alphabet:
    """The ids of a tokenizer's words for pictures."""

    begin: int
    end: int
    codes: tuple[int, ...]

    @staticmethod
    def of(tokenizer: Any, codes: int) -> Alphabet:
        """Raises SpecError for a tokenizer that has none, or not as many."""
        known = tokenizer.get_vocab()
        if missing := [word for word in words.vocabulary(codes) if word not in known]:
            raise SpecError(
                f"the run's tokenizer has no {missing[0]}; set tokenizer.picture_codes: {codes} and train it"
            )
        begin, end, *rest = (known[word] for word in words.vocabulary(codes))
        return Alphabet(begin=begin, end=end, codes=tuple(rest))


@torch.no_grad()
def picture_codes(
    model: Any, inputs: dict[str, Any], alphabet: Alphabet, count: int, *, temperature: float, draw: torch.Generator
) -> list[int]:
    """`count` codes after a prompt and the word that begins a picture, each drawn from the model's own shares of all
    codes (their logits over `temperature`; 0 takes the likeliest)."""
    given = dict(inputs)
    begin = torch.full((1, 1), alphabet.begin, device=given["input_ids"].device)
    given["input_ids"] = torch.cat([given["input_ids"], begin], 1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    allowed = torch.tensor(alphabet.codes, device=begin.device)
    found: list[int] = []
    past: Any = None
    while len(found) < count:
        output = model(**given, use_cache=True, past_key_values=past, logits_to_keep=1)
        past = output.past_key_values
        logits = output.logits[0, -1, allowed].float().cpu()
        if temperature > 0:
            at = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=draw))
        else:
            at = int(logits.argmax())
        found.append(at)
        step = allowed[at].view(1, 1)
        mask = torch.ones(1, given["attention_mask"].shape[1] + 1, dtype=torch.long, device=begin.device)
        given = {"input_ids": step, "attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        if getattr(output, "seen", None) is not None:
            given["seen"] = output.seen
    return found


def drawn(
    model: Any,
    tokenizer: Any,
    tokeniser: Vq,
    stream: StreamingDataset,
    count: int,
    *,
    temperature: float,
    seed: int,
    device: torch.device,
) -> Iterator[Drawn]:
    """Pictures for the first `count` samples of a stream whose answer is a picture."""
    alphabet, side = Alphabet.of(tokenizer, tokeniser.spec.codes), tokeniser.spec.side
    model.eval()
    asked = 0
    with generating(model):
        for packed, _, meta in prompts(stream, len(stream.datasets[0]) if stream.datasets else 0):
            if reference_of(packed)[:1] != [alphabet.begin]:
                continue
            key = packed.keys[0]
            draw = torch.Generator().manual_seed(int(rng.generator("picture", seed, key).integers(2**62)))
            inputs = inputs_of(packed, device)
            codes = picture_codes(model, inputs, alphabet, side * side, temperature=temperature, draw=draw)
            pixels = tokeniser.decode(torch.tensor([words.grid(codes, side)], device=device))[0]
            prompt = tokenizer.decode(inputs["input_ids"][0].tolist(), skip_special_tokens=True).strip()
            wanted = str(meta.get("caption", ""))
            yield Drawn(key=key, prompt=prompt, wanted=wanted, codes=codes, picture=as_image(pixels))
            asked += 1
            if asked >= count:
                return


def as_image(pixels: torch.Tensor) -> Image.Image:
    """Pixels [3, H, W] in [-1, 1] as a picture."""
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(levels))
