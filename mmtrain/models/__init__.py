"""Models by spec: built from numbers, or loaded."""

from mmtrain.models.tiny import build

__all__ = ["build"]
