"""Names for kinds: `register("step", "min_side")` stores a class, `lookup` finds it, importing only when asked.

A built-in kind lives in the module of its own name (`steps/min_side.py`), so the file listing is the table
and nothing below has to import upward. A user's kind is registered by a module named under `plugins:`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from mmdata.errors import SpecError

T = TypeVar("T")

PACKAGES: dict[str, str | None] = {
    "source": "mmdata.sources",
    "step": "mmdata.steps",
    "family": "mmdata.families",
    "loss": None,  # of users alone: `mmtrain.auxiliary.loss`
}
_table: dict[tuple[str, str], Any] = {}
_plugins: dict[str, ModuleType] = {}  # The modules loaded as plugins, under the names that a spec has for them.


def register(group: str, kind: str) -> Callable[[T], T]:
    """Decorator that makes a class or function available under `kind` in `group` (source, step, family or loss).

    >>> @register("step", "always")
    ... class Always: ...
    >>> lookup("step", "always") is Always
    True
    >>> del _table["step", "always"]
    """
    if group not in PACKAGES:
        raise SpecError(f"register: no group {group!r}; groups are {', '.join(PACKAGES)}")

    def store(value: T) -> T:
        known = _table.get((group, kind))
        if known is not None and getattr(known, "__module__", None) != getattr(value, "__module__", None):
            raise SpecError(f"register: {group} {kind!r} is already taken by {known.__module__}")
        _table[group, kind] = value
        return value

    return store


def _builtin(group: str) -> list[str]:
    name = PACKAGES[group]
    if name is None:
        return []
    package = importlib.import_module(name)
    return [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]


def kinds(group: str) -> list[str]:
    """All names in a group, sorted; imports none of them."""
    return sorted({*_builtin(group), *(kind for g, kind in _table if g == group)})


def lookup(group: str, kind: str) -> Any:
    """The registered value, imported if need be. Raises SpecError that names the nearest known kind."""
    if (group, kind) not in _table and kind in _builtin(group):
        importlib.import_module(f"{PACKAGES[group]}.{kind}")
    if (group, kind) not in _table:
        raise SpecError(f"no {group} is called {kind!r}; {nearest(kind, kinds(group))}")
    return _table[group, kind]


def load_plugin(name: str) -> None:
    """Import a user's module so that it registers its kinds: a dotted name, or the path of a `.py` file."""
    try:
        if name.endswith(".py"):
            path = Path(name).resolve()
            # The same file named twice (by the main process and a worker, say) is one module.
            module_name = f"mmdata_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
            if module_name in sys.modules:
                _plugins[path.stem] = sys.modules[module_name]
                return
            found = importlib.util.spec_from_file_location(module_name, path)
            if found is None or found.loader is None or not path.exists():
                raise SpecError(f"plugins: no file {name}")
            module = importlib.util.module_from_spec(found)
            sys.modules[module_name] = module
            try:
                found.loader.exec_module(module)
            except BaseException:
                del sys.modules[module_name]
                raise
            _plugins[path.stem] = module
        else:
            _plugins[name] = importlib.import_module(name)
    except SpecError:
        raise
    except (Exception, SystemExit) as error:  # a script that ends itself would end the build without a word
        raise SpecError(f"plugins: cannot import {name!r}: {type(error).__name__}: {error}") from error


def plugin_function(name: str) -> Callable[..., Any]:
    """`module.function` of a module that was loaded as a plugin: by its dotted name, or the name of its file without
    `.py`. Raises SpecError: only plugins' code is part of what a build is bound to."""
    module, _, function = name.rpartition(".")
    if module not in _plugins:
        raise SpecError(f"no plugin is called {module!r}; name its file or module under `plugins:`")
    found = getattr(_plugins[module], function, None)
    if not callable(found):
        known = [other for other, value in vars(_plugins[module]).items() if other[0] != "_" and callable(value)]
        raise SpecError(f"plugin {module} has no function {function!r}; {nearest(function, known)}")
    return found  # type: ignore[no-any-return]


def nearest(name: object, known: list[str]) -> str:
    """A remedy for a wrong name.

    >>> nearest("min_sid", ["min_side", "resize"])
    "did you mean 'min_side'?"
    >>> nearest("zzz", ["min_side", "resize"])
    'known: min_side, resize'
    """
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(sorted(known))
