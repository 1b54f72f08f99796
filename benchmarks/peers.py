"""The peers' environments: what ours is measured against, in virtual environments of their own.

`python -m benchmarks.peers` makes them once, in `benchmarks/.peers` (a few hundred megabytes). torch, torchvision and
Pillow are those of the interpreter that runs this, so that every loader decodes with the same libraries; the peers and
what only they need are installed on top. mosaicml-streaming asks for an older numpy than the others, and so lives
apart; img2dataset asks for older packages still, and shares none. Peers that go with our own pins (torchcodec, decord,
openai-whisper and others) come with `.[dev,dali]`. A peer that cannot be installed or imported is reported as missing,
and the benchmarks say so instead of leaving it out in silence.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).parent / ".peers"
SHARED = ("torch", "torchvision", "pillow")


@dataclass(frozen=True, slots=True)
class Peer:
    """What pip is asked for (the version that was measured), the module that must import, and where it lives."""

    requirement: str
    module: str
    environment: str = "stream"

    @property
    def python(self) -> Path:
        return FOLDER / self.environment / "bin" / "python"


PEERS = {
    "webdataset": Peer("webdataset==1.0.2", "webdataset"),
    "energon": Peer("megatron-energon==7.4.1", "megatron.energon"),
    "mosaicml-streaming": Peer("mosaicml-streaming==0.13.0", "streaming", "mosaicml"),
    "litdata": Peer("litdata==0.2.76", "litdata"),
    "spdl": Peer("spdl==0.8.0", "spdl.pipeline"),
    "datasets": Peer("datasets==5.2.0", "datasets"),
    "img2dataset": Peer("img2dataset==1.47.0", "img2dataset", "img2dataset"),
}
ALONE = ("img2dataset",)
"""Environments that share nothing with this interpreter's."""


def make() -> dict[str, str | None]:
    """Make the environments and install every peer; why each is missing, or None where it is there."""
    for name in dict.fromkeys(peer.environment for peer in PEERS.values()):
        folder = FOLDER / name
        if not (folder / "bin" / "python").exists():
            venv.create(folder, with_pip=True)
            if name not in ALONE:
                theirs = next((folder / "lib").glob("python*/site-packages"))
                (theirs / "same_libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
        wanted = [peer.requirement for peer in PEERS.values() if peer.environment == name]
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        shared = [] if name in ALONE else [f"{package}=={version(package).partition('+')[0]}" for package in SHARED]
        if subprocess.run([*pip, *wanted, *shared], check=False).returncode:
            for requirement in wanted:  # One that does not go with the others must not keep them out.
                subprocess.run([*pip, requirement, *shared], check=False)
    return missing()


def missing(names: Iterable[str] = PEERS) -> dict[str, str | None]:
    """Of each peer: None where its module is found, else why not. It is not imported, which takes seconds: a peer that
    cannot be fails in its benchmark and is told there."""
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    found: dict[str, str | None] = {}
    for name in names:
        peer = PEERS[name]
        if not peer.python.exists():
            found[name] = "no environment; make it with `python -m benchmarks.peers`"
            continue
        done = subprocess.run([str(peer.python), "-c", code, peer.module], capture_output=True, text=True, check=False)
        found[name] = (
            None if not done.returncode else f"{peer.requirement} is not installed {done.stderr[-200:]}".strip()
        )
    return found


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of peers that are there, what is asked for: the version that is measured."""
    return {name: PEERS[name].requirement.partition("==")[2] for name in names if name in PEERS}


def lacking(names: Iterable[str]) -> dict[str, str]:
    """Those of the names that are peers and not there, with the reason."""
    return {name: reason for name, reason in missing([name for name in names if name in PEERS]).items() if reason}


PYTHONS = {name: peer.python for name, peer in PEERS.items()}


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = make()
    for name, reason in found.items():
        print(f"{name:20} {PEERS[name].requirement:32} {'installed' if reason is None else f'MISSING: {reason}'}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
