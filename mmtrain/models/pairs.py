"""Pairs of a picture and a text, as the samples of a row are them: what objectives that compare both learn from."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from mmdata.errors import RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A picture and a text of one sample: its segment, the picture's number, and where the text's tokens stand."""

    segment: int
    picture: int
    places: torch.Tensor


def pairs_of(cu: torch.Tensor, firsts: torch.Tensor, weights: torch.Tensor, objective: str) -> list[Pair]:
    """The picture and the text of each sample in which something is trained: borders int [S + 1], the places of the
    pictures' first tokens int64 [N], the weights of the labels [T], which are the text's. Raises RunError, naming the
    objective, for a sample without exactly one picture."""
    places = firsts.tolist()
    found = []
    for number, (start, stop) in enumerate(itertools.pairwise(cu.tolist())):
        text = start + torch.nonzero(weights[start:stop] != 0)[:, 0]
        if not len(text):
            continue
        mine = [at for at, place in enumerate(places) if start <= place < stop]
        if len(mine) != 1:
            raise RunError(f"objective {objective}: a sample has {len(mine)} pictures, and one is wanted in each")
        found.append(Pair(segment=number, picture=mine[0], places=text))
    return found
