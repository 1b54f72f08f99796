"""Multimodal data for training: build verified datasets, stream them exactly.

Public names resolve when they are first used, so that `import mmdata` loads neither torch nor a codec.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "StreamingDataset": "mmdata.stream.dataset",
    "StreamLoader": "mmdata.stream.loader",
    "open_dataset": "mmdata.shards.dataset",
    "build_dataset": "mmdata.build",
    "verify_dataset": "mmdata.verify",
    "register": "mmdata.registry",
    "Sample": "mmdata.types",
    "Text": "mmdata.types",
    "Media": "mmdata.types",
    "Drop": "mmdata.types",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from mmdata.build import build_dataset as build_dataset
    from mmdata.registry import register as register
    from mmdata.shards.dataset import open_dataset as open_dataset
    from mmdata.stream.dataset import StreamingDataset as StreamingDataset
    from mmdata.stream.loader import StreamLoader as StreamLoader
    from mmdata.types import Drop as Drop
    from mmdata.types import Media as Media
    from mmdata.types import Sample as Sample
    from mmdata.types import Text as Text
    from mmdata.verify import verify_dataset as verify_dataset


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'mmdata' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
