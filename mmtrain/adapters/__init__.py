"""Parameter-efficient fine-tuning: adapters that stand beside the weights they change."""

from mmtrain.adapters.export import attach, export
from mmtrain.adapters.install import adapters, defaults, install, rest
from mmtrain.adapters.plan import plan, table
from mmtrain.adapters.setup import equip, finish
from mmtrain.adapters.spec import (
    AdapterSpec,
    BottleneckSpec,
    IA3Spec,
    LoraSpec,
    PrefixSpec,
    RanksSpec,
    is_qlora,
    unquantised,
)
from mmtrain.adapters.state import adapter_state, load_adapter_state, merge, off, remove

__all__ = [
    "AdapterSpec",
    "BottleneckSpec",
    "IA3Spec",
    "LoraSpec",
    "PrefixSpec",
    "RanksSpec",
    "adapter_state",
    "adapters",
    "attach",
    "defaults",
    "equip",
    "export",
    "finish",
    "install",
    "is_qlora",
    "load_adapter_state",
    "merge",
    "off",
    "plan",
    "remove",
    "rest",
    "table",
    "unquantised",
]
