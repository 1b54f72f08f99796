"""The fault kit: servers, files, media and kills that misbehave on purpose, so that anyone can reproduce our claims.

Public names resolve when they are first used. docs/testing.md shows each of them at work.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    # A web that fails, and how each of its links must end.
    "FaultServer": "server",
    "FaultWeb": "web",
    "Behaviour": "plan",
    "fault_web": "web",
    "make_example": "example",
    # What became of records, against what had to.
    "ledger_ends": "accounts",
    "settle": "accounts",
    # Files that fail.
    "Faults": "filesystem",
    "Rule": "filesystem",
    # Media that are damaged, and whole ones to damage.
    "Corruption": "corruptor",
    "corrupt": "corruptor",
    "corruptions": "corruptor",
    "judge": "judging",
    "specimen": "specimens",
    # Kills.
    "Preloaded": "kill",
    "run_with_kills": "kill",
    # Resuming.
    "Adapter": "resume",
    "Topology": "resume",
    "resume_at_every_step": "resume",
    "stateful": "resume",
}
__all__ = list(_PUBLIC)

if TYPE_CHECKING:
    from mmdata.testing.accounts import ledger_ends as ledger_ends
    from mmdata.testing.accounts import settle as settle
    from mmdata.testing.corruptor import Corruption as Corruption
    from mmdata.testing.corruptor import corrupt as corrupt
    from mmdata.testing.corruptor import corruptions as corruptions
    from mmdata.testing.example import make_example as make_example
    from mmdata.testing.filesystem import Faults as Faults
    from mmdata.testing.filesystem import Rule as Rule
    from mmdata.testing.judging import judge as judge
    from mmdata.testing.kill import Preloaded as Preloaded
    from mmdata.testing.kill import run_with_kills as run_with_kills
    from mmdata.testing.plan import Behaviour as Behaviour
    from mmdata.testing.resume import Adapter as Adapter
    from mmdata.testing.resume import Topology as Topology
    from mmdata.testing.resume import resume_at_every_step as resume_at_every_step
    from mmdata.testing.resume import stateful as stateful
    from mmdata.testing.server import FaultServer as FaultServer
    from mmdata.testing.specimens import specimen as specimen
    from mmdata.testing.web import FaultWeb as FaultWeb
    from mmdata.testing.web import fault_web as fault_web


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"mmdata.testing.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'mmdata.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
