"""Contrastive training: pictures and texts as vectors that are near where they belong together (CLIP, SigLIP).

Vectors of a whole global batch are compared, however its pairs are dealt to ranks and forward passes: losses are
functions of vectors alone (`objective`), and their gradients go back into the towers pass by pass (`step`).
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m mmtrain.contrastive`."""
    from mmtrain.contrastive.command import main as command

    return command(arguments)
