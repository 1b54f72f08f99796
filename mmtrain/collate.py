"""The collators, under the name that a trainer looks for."""

from mmdata.collate import OWN_KEYS, PackedCollator, PaddedCollator, model_inputs

__all__ = ["OWN_KEYS", "PackedCollator", "PaddedCollator", "model_inputs"]
