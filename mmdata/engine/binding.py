"""What a dataset is bound to, so that two builds never mix in one folder."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from mmdata import specfile
from mmdata.engine import commit
from mmdata.errors import SpecError
from mmdata.shards import manifest as manifests
from mmdata.shards.storage import sha256_file, write_atomic
from mmdata.spec import BuildSpec, Source


def bound_spec(spec: BuildSpec, source: Source) -> dict[str, Any]:
    """What a dataset is bound to: the spec without its run-time fields, the input files, the plugins' code."""
    plugins = {}
    for name in spec.plugins:
        file = name if name.endswith(".py") else getattr(importlib.import_module(name), "__file__", None)
        plugins[Path(name).name] = sha256_file(Path(file)) if file else ""
    return {"spec": specfile.bound(spec), "inputs": source.inputs(), "plugins": plugins}


def bind(folder: Path, bound: dict[str, Any]) -> dict[str, Any]:
    """Bind a build's folder; returns `bound`. Raises SpecError where it was begun with another spec or input, or holds
    a dataset that nobody can go on with."""
    path = folder / ".build" / "build.json"
    if path.exists():
        before = manifests.read_json(path)
        changes = list(specfile.difference(before, bound))
        if changes:
            raise SpecError(
                "\n".join(
                    [
                        f"{folder} was begun with another spec or input; build to another output.path, "
                        "or take these changes back:",
                        *(f"  {change}" for change in changes),
                    ]
                )
            )
    elif (folder / "manifest.json").exists():
        raise SpecError(f"{folder} holds a dataset without its build state; build to another output.path")
    else:
        write_atomic(path, commit.canonical(bound))
    return bound
