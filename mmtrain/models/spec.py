"""What a model may be told to be."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mmdata.spec import Model


class TowerSpec(Model):
    """A stack of transformer layers."""

    hidden: int = Field(..., ge=8)
    layers: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden {self.hidden} must be a multiple of 2 * heads = {2 * self.heads}")
        return self


class ModelSpec(Model):
    """A LLaVA built from these numbers, with random weights: a CLIP tower, a two-layer projector, a Llama decoder."""

    family: Literal["llava"] = "llava"
    image_size: int = Field(56, ge=14)
    """Side of the square that every image becomes, in pixels."""
    patch_size: int = Field(14, ge=2)
    """Side of a patch; (image_size / patch_size)^2 tokens per image."""
    vision: TowerSpec = TowerSpec(hidden=64)
    language: TowerSpec = TowerSpec(hidden=128)
