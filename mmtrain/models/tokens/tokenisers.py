"""Tokenisers of pictures: a grid of codes (VQ) or of continuous vectors (KL), and pixels again."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Discriminator, Field, Tag, TypeAdapter, model_validator
from torch import nn

from mmdata.spec import Model
from mmtrain.models.tokens.codebook import Codebook, Quantized
from mmtrain.models.tokens.convolutions import Decoder, Encoder


class ConvSpec(Model):
    """What both have in common."""

    size: int = Field(32, ge=4)
    """Pixels of a picture's sides; pictures are squashed to it."""
    stride: int = Field(4, ge=2)
    """Pixels of a token's sides, a power of two: (size / stride)^2 tokens."""
    channels: int = Field(64, ge=8)
    blocks: int = Field(1, ge=0)
    """Residual blocks at the size of the grid."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.stride & (self.stride - 1):
            raise ValueError(f"stride: {self.stride} is no power of two")
        if self.size % self.stride:
            raise ValueError(f"size: {self.size} is no multiple of stride {self.stride}")
        return self

    @property
    def side(self) -> int:
        """Rows and columns of tokens."""
        return self.size // self.stride


class VqSpec(ConvSpec):
    """Each cell is one of `codes` vectors, nearest to what the encoder says of it (VQ-VAE: van den Oord et al. 2017,
    arXiv 1711.00937), which are averages of what they stand for (`Codebook`)."""

    kind: Literal["vq"]
    codes: int = Field(128, ge=2)
    width: int = Field(16, ge=1)
    """Of a code: few values keep most codes in use (ViT-VQGAN: Yu et al. 2022, arXiv 2110.04627, §3.2)."""
    decay: float = Field(0.99, gt=0, lt=1)
    """Of the averages."""
    revive: float = Field(0.5, ge=0)
    """A code that stands for fewer vectors of a batch than that, in the average, is drawn anew; 0: never."""
    commitment: float = Field(0.25, ge=0)
    """Weight of the distance of vectors to their codes."""


class KlSpec(ConvSpec):
    """Each cell is `width` values of a Gaussian that is held near the standard one (the autoencoder of latent
    diffusion: Rombach et al. 2022, arXiv 2112.10752, §3.1)."""

    kind: Literal["kl"]
    width: int = Field(8, ge=1)
    kl: float = Field(1e-4, ge=0)
    """Weight of the divergence, a mean over values."""


TokeniserSpec = Annotated[
    Annotated[VqSpec, Tag("vq")] | Annotated[KlSpec, Tag("kl")],
    Discriminator(lambda value: value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)),
]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(TokeniserSpec)


def read(value: dict[str, Any]) -> Any:
    """The spec that a folder's `tokeniser.json` holds."""
    return _ADAPTER.validate_python(value)


def make(spec: Any) -> Vq | Kl:
    """The module of a spec."""
    return Vq(spec) if spec.kind == "vq" else Kl(spec)


class Vq(nn.Module):
    """`VqSpec`."""

    def __init__(self, spec: VqSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.channels, spec.stride, spec.blocks, spec.width)
        self.codebook = Codebook(spec.codes, spec.width, decay=spec.decay, revive=spec.revive)
        self.decoder = Decoder(spec.channels, spec.stride, spec.blocks, spec.width)

    def quantized(self, pixels: torch.Tensor, draw: torch.Generator | None = None) -> tuple[torch.Tensor, Quantized]:
        """Pixels [N, 3, size, size] in [-1, 1] -> those that come out again, and what they went through."""
        grid = self.encoder(pixels)
        found = self.codebook(grid.permute(0, 2, 3, 1).flatten(0, 2), draw=draw)
        return self.decoder(_planes(found.rows, grid)), found

    def forward(
        self, pixels: torch.Tensor, draw: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels again, the loss besides that of the pixels, and the ids [N, side, side]."""
        made, found = self.quantized(pixels, draw)
        side = self.spec.side
        return made, self.spec.commitment * found.commitment, found.ids.view(-1, side, side)

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [N, 3, size, size] in [-1, 1] -> ids int64 [N, side, side]."""
        grid = self.encoder(pixels)
        ids = self.codebook.nearest(grid.permute(0, 2, 3, 1).flatten(0, 2))
        return ids.view(len(pixels), *grid.shape[2:])

    @torch.no_grad()
    def decode(self, ids: torch.Tensor) -> torch.Tensor:
        """Ids [N, side, side] -> pixels in [-1, 1]. Raises ValueError for ids that are no codes."""
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.spec.codes:
            raise ValueError(f"ids from {int(ids.min())} to {int(ids.max())}; there are {self.spec.codes} codes")
        grid = self.codebook.codes[ids].permute(0, 3, 1, 2)
        made: torch.Tensor = self.decoder(grid).clamp(-1, 1)
        return made


class Kl(nn.Module):
    """`KlSpec`. `scale` is what latents are divided by so that their values have a standard deviation of 1; it is
    measured at the end of the training."""

    scale: torch.Tensor

    def __init__(self, spec: KlSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = Encoder(spec.channels, spec.stride, spec.blocks, 2 * spec.width)
        self.decoder = Decoder(spec.channels, spec.stride, spec.blocks, spec.width)
        self.register_buffer("scale", torch.ones(()))

    def moments(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance of each value, both [N, width, side, side]."""
        mean, log_variance = self.encoder(pixels).chunk(2, 1)
        return mean, log_variance.clamp(-20, 10)

    def forward(
        self, pixels: torch.Tensor, draw: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Pixels again, from drawn latents in training; the loss besides that of the pixels; the means."""
        mean, log_variance = self.moments(pixels)
        x = mean
        if self.training and draw is not None:
            noise = torch.randn(mean.shape, generator=draw).to(mean)
            x = mean + noise * (log_variance / 2).exp()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        return self.decoder(x), self.spec.kl * divergence, mean

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels [N, 3, H, W] in [-1, 1] -> scaled means [N, H / stride, W / stride, width]."""
        return (self.moments(pixels)[0] / self.scale).permute(0, 2, 3, 1)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [N, h, w, width] -> pixels in [-1, 1]."""
        made: torch.Tensor = self.decoder((latents * self.scale).permute(0, 3, 1, 2)).clamp(-1, 1)
        return made


def _planes(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    count, _, height, width = like.shape
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)
