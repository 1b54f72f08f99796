"""What a connector is given: vectors of several pictures in one row; and how pictures of one shape come together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from mmtrain.models.layers import Borders, Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Patches:
    """A tower's vectors [P, width] of N pictures after each other, none padded; a frame of a video is a picture.

    `lengths` are the patches of each, `grids` its (rows, columns), None where patches were dropped and no grid is left.
    Patches come in raster order; for a connector that merges m x m of them, in blocks of m x m after each other, which
    are in raster order.
    """

    rows: torch.Tensor
    lengths: tuple[int, ...]
    grids: tuple[tuple[int, int], ...] | None = None

    @property
    def context(self) -> Context:
        """The pictures as what queries see, each those of its own number."""
        return Context(rows=self.rows, borders=Borders.of(self.lengths, self.rows.device))

    def whole(self, kind: str) -> tuple[tuple[int, int], ...]:
        """The grids. Raises ValueError where there are none."""
        if self.grids is None:
            raise ValueError(f"connector {kind} wants whole grids of patches, and some were dropped")
        return self.grids


def alike(
    patches: Patches, shapes: Sequence[Hashable], make: Callable[[torch.Tensor, Hashable], torch.Tensor]
) -> list[torch.Tensor]:
    """Do something to pictures of one shape together: `make` takes [n, L, width] and their shape, and answers one thing
    for each picture, [n, ...]. The answers come in the order of the pictures.

    >>> row = Patches(rows=torch.arange(5.0)[:, None], lengths=(1, 3, 1))
    >>> [int(each) for each in alike(row, row.lengths, lambda x, shape: x.sum((1, 2)))]
    [0, 6, 4]
    """
    pictures = patches.rows.split(patches.lengths)
    found: dict[int, torch.Tensor] = {}
    for shape in dict.fromkeys(shapes):
        mine = [at for at, other in enumerate(shapes) if other == shape]
        made = make(torch.stack([pictures[at] for at in mine]), shape)
        found |= dict(zip(mine, made.unbind(0), strict=True))
    return [found[at] for at in range(len(pictures))]


def in_blocks(patches: torch.Tensor, rows: int, merge: int) -> torch.Tensor:
    """Patches [N, rows * columns, D] in raster order as blocks of merge x merge after each other (pixel unshuffle):
    [N * rows * columns, D].

    >>> in_blocks(torch.arange(8.0).view(1, 8, 1), 2, 2)[:, 0].tolist()
    [0.0, 1.0, 4.0, 5.0, 2.0, 3.0, 6.0, 7.0]
    """
    count, length, width = patches.shape
    columns = length // rows
    blocks = patches.view(count, rows // merge, merge, columns // merge, merge, width).transpose(2, 3)
    return blocks.reshape(-1, width)
