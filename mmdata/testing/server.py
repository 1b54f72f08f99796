"""The fault server as a test or a person uses it: `FaultServer` starts and stops it in a process of its own.

    python -m mmdata.testing.server --root FOLDER [--plan FILE] [--port N] [--log FILE]

serves FOLDER until interrupted, answering as the plan says (default: FOLDER/plan.json, where there is one).
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from mmdata import unread
from mmdata.testing import plan as plans
from mmdata.testing.plan import Plan

START_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One line of the server's log: when (Unix seconds) who asked what of which origin, and the status answered
    (0: no answer was given). `active` counts the requests under way at that origin then, this one included; `range`
    is the Range header, or empty."""

    time: float
    origin: str
    method: str
    path: str
    user_agent: str
    status: int
    active: int
    range: str = ""


class FaultServer:
    """An HTTP server in its own process that serves the files below `root` and fails as `plan` says.

    `plan` is a `Plan`, its JSON form, or the path of a JSON file; without one, `root/plan.json` where it exists,
    else files are served honestly from one origin on a free port. Every request is a line of `log` before it is
    answered (default: a file in a temporary folder that goes with the server). The process ends with `stop`, with the
    `with` block, or when the process that started it dies.

    >>> import urllib.request
    >>> with FaultServer("/nowhere", {"origins": {"main": {"paths": {"/a.txt": {"body": "hello"}}}}}) as server:
    ...     answer = urllib.request.urlopen(server.url + "/a.txt").read()
    ...     asked = [(request.path, request.status) for request in server.log()]
    >>> answer, asked
    (b'hello', [('/a.txt', 200)])
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        plan: Plan | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.plan = resolve_plan(self.root, plan)
        self.urls: dict[str, str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fault-server-")
        self.log_path = Path(log) if log is not None else Path(self._folder.name) / "log.jsonl"
        self._errors = Path(self._folder.name) / "stderr"
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The URL of the main (first) origin, without a slash at its end."""
        return self.urls[next(iter(self.plan.origins))]

    @property
    def pid(self) -> int:
        """The server's process, for measuring its CPU time."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    def start(self) -> FaultServer:
        """Start serving; returns once every origin listens. Raises RuntimeError with the server's own words."""
        assert self._process is None, "the server is running already"
        plan_file = Path(self._folder.name) / "plan.json"
        plan_file.write_text(plans.dump(self.plan), encoding="utf-8")
        package_parent = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([package_parent, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "mmdata.testing.server", "--until-eof", "--json", "--root", str(self.root)]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "--plan", str(plan_file), "--log", str(self.log_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # a Ctrl-C meant for the build is not meant for the server it builds from
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate(timeout=START_SECONDS)
            self._process = None
            raise RuntimeError(f"the fault server did not start: {self.errors()}")
        self.urls = json.loads(line)
        return self

    def stop(self) -> None:
        """Stop serving; does nothing to a server that is not running. The log stays readable."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=START_SECONDS)
            self._process = None

    def restart(self, plan: Plan | Mapping[str, Any] | str | os.PathLike[str] | None = None) -> None:
        """Serve again on the same addresses, with all counts at zero, under another plan if one is given
        (its ports are replaced). The log goes on."""
        new = self.plan if plan is None else resolve_plan(self.root, plan)
        ports = {name: urlsplit(url).port or 0 for name, url in self.urls.items()}
        origins = {
            name: dataclasses.replace(origin, port=ports.get(name, origin.port)) for name, origin in new.origins.items()
        }
        self.stop()
        self.plan = Plan(origins=origins)
        self.start()

    def log(self) -> list[Request]:
        """Every request so far, in the order of arrival."""
        if not self.log_path.exists():
            return []
        with self.log_path.open(encoding="utf-8") as lines:
            # A line without its end is still being written; it is there at the next call.
            return [Request(**json.loads(line)) for line in lines if line.endswith("\n")]

    def errors(self) -> str:
        """What the server said on its standard error; the empty string when all is well."""
        return self._errors.read_text(encoding="utf-8").strip() if self._errors.exists() else ""

    def clear_log(self) -> None:
        """Forget the requests so far."""
        if self.log_path.exists():
            os.truncate(self.log_path, 0)

    def __enter__(self) -> FaultServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def resolve_plan(root: Path, plan: Plan | Mapping[str, Any] | str | os.PathLike[str] | None) -> Plan:
    """The plan meant by any of the forms that `FaultServer` takes. Raises ValueError for a wrong one."""
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, Mapping):
        return plans.parse(plan)
    if plan is not None:
        return plans.load(Path(plan))
    beside = root / "plan.json"
    return plans.load(beside) if beside.exists() else Plan()


@unread.goes_on
def main(arguments: list[str] | None = None) -> int:
    """The command line; see the module's text."""
    parser = argparse.ArgumentParser(prog="python -m mmdata.testing.server", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder whose files are served")
    parser.add_argument("--plan", type=Path, help="JSON plan of faults (default: ROOT/plan.json if it exists)")
    parser.add_argument("--port", type=int, help="port of the main origin; 0 takes a free one")
    parser.add_argument("--log", type=Path, help="file to append one JSON line per request to")
    parser.add_argument("--until-eof", action="store_true", help="also stop when standard input ends")
    parser.add_argument("--json", action="store_true", help="say where it listens as one line of JSON")
    options = parser.parse_args(arguments)
    try:
        plan = resolve_plan(options.root, options.plan)
    except (OSError, ValueError) as error:
        raise SystemExit(f"{options.plan or options.root / 'plan.json'}: {error}") from error
    if options.port is not None:
        main_name, main_origin = next(iter(plan.origins.items()))
        plan = Plan(origins={**plan.origins, main_name: dataclasses.replace(main_origin, port=options.port)})

    def ready(urls: dict[str, str]) -> None:
        print(json.dumps(urls) if options.json else "\n".join(f"{name}: {url}" for name, url in urls.items()))
        sys.stdout.flush()

    # Imported here, so that importing FaultServer costs a build nothing of asyncio.
    from mmdata.testing.serving import serve

    log = os.open(options.log or os.devnull, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    asyncio.run(serve(options.root, plan, log, ready, options.until_eof))
    return 0


if __name__ == "__main__":
    sys.exit(main())
