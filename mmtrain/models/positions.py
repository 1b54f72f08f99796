"""How far a language model can count: whether its longest sample has a place in a learned table of positions."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from mmdata.errors import SpecError


@torch.no_grad()
def check_positions(model: Any, longest: int | None) -> None:
    """Raises SpecError where samples may be `longest` tokens long and the model, whose positions are rows of a table
    (GPT-2, OPT), has fewer. Rotations and slopes go on for ever, and whether a model follows them is its own affair."""
    base, decoder = model.base_model, model.get_decoder()
    if longest is None or "position_ids" not in inspect.signature(decoder.forward).parameters:
        return
    was_training = model.training
    model.eval()
    first = torch.zeros(1, 1, dtype=torch.int64, device=model.get_input_embeddings().weight.device)
    try:  # the whole model: its layers may have to be told of more than a decoder is given
        base(input_ids=first, position_ids=first + longest - 1, use_cache=False)
    except IndexError as error:
        rows = getattr(decoder.config, "max_position_embeddings", None)
        raise SpecError(
            f"data.max_length: {longest}, but {type(decoder).__name__} has a table of {rows or 'fewer'} positions; set "
            f"data.max_length: {rows or 'to theirs'} (and data.pack_tokens: {longest}, if packs are to stay as long)"
        ) from error
    finally:
        model.train(was_training)
