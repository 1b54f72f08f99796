"""Packing: lengths into as few rows of a given capacity as fast, deterministic rules find. Integers only."""

from mmdata.pack.best import Strategy, pack, pack_best_fit
from mmdata.pack.bins import Bins, packing_efficiency, padded_efficiency, round_up
from mmdata.pack.bounds import lower_bound
from mmdata.pack.even import even_out
from mmdata.pack.overlong import Fitted, OverlongPolicy, fit_overlong
from mmdata.pack.padded import length_batches
from mmdata.pack.pieces import Pieces, concat_then_split, cut
from mmdata.pack.ranks import Imbalance, balance, balance_row, imbalance
from mmdata.pack.vector import pack_vectors, vector_bound

__all__ = [
    "Bins",
    "Fitted",
    "Imbalance",
    "OverlongPolicy",
    "Pieces",
    "Strategy",
    "balance",
    "balance_row",
    "concat_then_split",
    "cut",
    "even_out",
    "fit_overlong",
    "imbalance",
    "length_batches",
    "lower_bound",
    "pack",
    "pack_best_fit",
    "pack_vectors",
    "packing_efficiency",
    "padded_efficiency",
    "round_up",
    "vector_bound",
]
