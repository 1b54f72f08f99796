"""`python -m mmdata.doctor`: whether this environment can build, stream and train, and what to install if not.

Packages are tried in processes of their own, so that one which is broken is told of and not suffered.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import importlib.metadata
import importlib.util
import json
import re
import shlex
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmdata import machine, unread

State = Literal["ok", "note", "missing", "broken"]
_CHILD = """
import json, os, sys
answer = os.dup(1)
os.dup2(2, 1)  # what packages print is not the answer
from mmdata import probes
os.write(answer, json.dumps(probes.ask(sys.argv[1])).encode())
os._exit(0)
"""
SECONDS = 180.0
"""Longest time for one probe: importing torch from a cold disk takes its time."""
REQUIRED = ("torch", "tables", "images", "video", "audio", "stores", "training")
PACKAGE_OF = {
    "torch": "torch",
    "tables": "pyarrow",
    "images": "pillow",
    "video": "av",
    "audio": "av",
    "stores": "fsspec",
}
PACKAGE_OF |= {"training": "transformers", "dali": "nvidia-dali-cuda130"}
OPTIONAL = {
    "ray": ("ray", "builds on a cluster (engine.kind: ray)"),
    "pypdfium2": ("pypdfium2", "pages of PDF files (source.kind: pdf)"),
    "py3langid": ("py3langid", "the step `language`"),
    "bitsandbytes": ("bitsandbytes", "adapters of kind qlora, optimisers in 8 bits"),
    "librosa": ("librosa", "music features"),
    "torchcodec": ("torchcodec", "a further decoder of video"),
    "decord": ("decord", "a further decoder of video"),
    "s3fs": ("s3fs", "s3:// URLs"),
    "gcsfs": ("gcsfs", "gs:// URLs"),
    "flash_attn": ("flash-attn", "packed rows on GPUs where torch has no varlen attention"),
    "shtab": ("shtab", "completion in shells"),
}
"""Modules, their packages, and what they are for."""
_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at. `remedy` is a command or a setting, where there is one to be told."""

    name: str
    state: State
    detail: str
    remedy: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a probe's process said (`found`), or how it failed; `missing` is a module that is not there."""

    found: dict[str, Any] | None = None
    missing: str | None = None
    failure: str = ""


def ask(probe: str, seconds: float = SECONDS) -> Answer:
    """Run a probe in a process of its own."""
    command = [sys.executable, "-c", _CHILD, probe]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Answer(failure=f"gave no answer within {seconds:g} s")
    if done.returncode < 0:
        return Answer(failure=f"crashed: {signal.Signals(-done.returncode).name}")
    try:
        said = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Answer(failure=f"ended with exit code {done.returncode}: {last[:300]}")
    if "found" in said:
        return Answer(found=said["found"])
    return Answer(missing=said["missing"], failure=said["error"])


def examine(folder: Path, seconds: float = SECONDS) -> Iterator[Check]:
    """All checks, in a fixed order, each as soon as it is known."""
    yield _python()
    yield from _requirements()
    optional = [name for name in OPTIONAL if importlib.util.find_spec(name) is not None]
    dali = _has("nvidia.dali")
    names = [*REQUIRED, "kernels", *(["dali"] if dali else []), *optional]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:  # most of it is reading files
        answers = dict(zip(names, (pool.submit(ask, name, seconds) for name in names), strict=True))
        for name in REQUIRED:
            yield from _probed(name, answers[name].result())
        yield _kernels(answers["kernels"].result())
        yield _dali(answers["dali"].result() if dali else None)
        yield _pictures_by(answers["torch"].result(), answers["dali"].result() if dali else None)
        for name in OPTIONAL:
            yield _optional(name, answers[name].result() if name in answers else None)
        yield from _gpu_left_idle(answers["torch"].result())
    yield from _machine(folder)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    try:
        ours = importlib.metadata.version("mmdata")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name="mmdata",
            state="note",
            detail=f"run from its sources, not installed (Python {version}, {sys.executable})",
            remedy=f"{_pip()} -e .",
        )
    return Check(name="mmdata", state="ok", detail=f"{ours}, Python {version}, {sys.executable}")


def _requirements() -> Iterator[Check]:
    """Packages that have to be there, and how new they have to be, by our own metadata."""
    for requirement in _required():
        name = _name(requirement)
        least = re.search(r">=\s*([\d.]+)", requirement)
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Check(
                name=name,
                state="missing",
                detail="not installed",
                remedy=f"{_pip()} {_quoted(requirement)}",
                required=True,
            )
            continue
        if least is not None and _numbers(have) < _numbers(least[1]):
            yield Check(
                name=name,
                state="broken",
                detail=f"{have} is older than {least[1]}",
                remedy=f"{_pip()} --upgrade {_quoted(requirement)}",
                required=True,
            )


def _required() -> list[str]:
    try:
        listed = importlib.metadata.requires("mmdata") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    # decord, the one with a condition, has wheels for some platforms only and is not needed where it has none.
    return [line for line in listed if ";" not in line]


def requirement_of(package: str) -> str:
    """How pip is asked for a package: as our metadata has it, else by its name."""
    try:
        listed = importlib.metadata.requires("mmdata") or []
    except importlib.metadata.PackageNotFoundError:
        listed = []
    return next((line.partition(";")[0].strip() for line in listed if _name(line) == package), package)


def _name(requirement: str) -> str:
    """
    >>> _name("ray[default]>=2.40; extra == 'ray'")
    'ray'
    """
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def _numbers(version: str) -> tuple[int, ...]:
    """
    >>> _numbers("2.14.0+cu130") >= _numbers("2.6"), _numbers("10.0") > _numbers("9.1")
    (True, True)
    """
    found = re.match(r"[\d.]+", version)
    return tuple(int(part) for part in found[0].split(".") if part) if found else ()


def _pip() -> str:
    return f"{shlex.quote(sys.executable)} -m pip install"


def _quoted(requirement: str) -> str:
    return shlex.quote(requirement.replace(" ", ""))


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _failed(name: str, answer: Answer, package: str, *, required: bool) -> Check:
    """What is to be done about a probe that failed: install what is missing, else put the package in anew."""
    if answer.missing is not None:
        wanted = answer.missing.partition(".")[0]
        remedy = f"{_pip()} {_quoted(requirement_of(package if wanted in (package, name) else wanted))}"
        return Check(name=name, state="missing", detail=f"{answer.failure}", remedy=remedy, required=required)
    remedy = f"{_pip()} --force-reinstall {_quoted(requirement_of(package))}"
    return Check(name=name, state="broken", detail=answer.failure, remedy=remedy, required=required)


def _probed(name: str, answer: Answer) -> Iterator[Check]:
    if answer.found is None:
        yield _failed(name, answer, PACKAGE_OF[name], required=True)
        return
    found = answer.found
    failed = found.get("failed") or {}
    yield Check(
        name=name, state="broken" if failed and not found["decoded"] else "ok", detail=_said(name, found), required=True
    )
    for format, why in failed.items():
        yield Check(name=f"{name}: {format}", state="note", detail=f"cannot be read here: {why}")
    for codec in found.get("missing", []) if name == "video" else []:
        yield Check(name=f"video: {codec}", state="note", detail="the FFmpeg libraries in PyAV have no decoder of it")


def _said(name: str, found: dict[str, Any]) -> str:
    match name:
        case "torch":
            build = f"built for CUDA {found['built for CUDA']}" if found["built for CUDA"] else "built for CPUs only"
            gpus = ", ".join(found["gpus"]) or "no GPU that it can use: everything runs on the CPU"
            return f"{found['version']}, {build}; {gpus}"
        case "images":
            decoded = ", ".join(found["decoded"])
            return f"JPEG by libjpeg-turbo where the kernels do not read it, the others by Pillow: {decoded}"
        case "video":
            libraries = ", ".join(
                f"{name} {version}" for name, version in found["libraries"].items() if "codec" in name
            )
            return f"decoded by {found['backend']} (PyAV {found['version']}, {libraries}): {', '.join(found['codecs'])}"
        case "audio":
            return f"WAV and FLAC by our own readers, the others by PyAV: {', '.join(found['decoded'])}"
        case "stores":
            missing = "".join(f"; {name}: {why}" for name, why in found["missing"].items())
            return f"fsspec {found['version']}: {', '.join(f'{name}://' for name in found['open'])}{missing}"
        case "training":
            packages = ", ".join(f"{key} {value}" for key, value in found.items() if key != "kernel")
            return f"{packages}; packed rows go through {found['kernel']} on a GPU, its exact twin on a CPU"
    return ", ".join(f"{key} {value}" if key != "version" else str(value) for key, value in found.items())


def _kernels(answer: Answer) -> Check:
    """Our own code in C, which is compiled where the package is installed."""
    if answer.found is None:
        detail = f"{answer.failure or answer.missing}: set MMDATA_NATIVE=0, and please tell us"
        return Check(name="kernels", state="broken", detail=detail, required=True)
    if not answer.found["compiled"]:
        if not answer.found["wanted"]:
            detail = "not used (MMDATA_NATIVE=0): torch, numpy and libraries do the same, more slowly"
            return Check(name="kernels", state="note", detail=detail)
        why = "of another version" if answer.found["older"] else "not compiled, as there was no C compiler"
        detail = f"{why}: torch, numpy and libraries do the same, more slowly"
        remedy = f"with a C compiler, {_pip()} --force-reinstall --no-deps mmdata (-e . in a clone)"
        return Check(name="kernels", state="missing", detail=detail, remedy=remedy)
    used = (
        "those for every processor; torch resizes and libjpeg-turbo decodes, as the processor has no AVX2",
        "those for AVX2",
        "those for AVX-512",
    )[answer.found["level"]]
    lacking = "" if answer.found["called"] else "; tars and indexes are done in Python, as its headers were not there"
    return Check(name="kernels", state="ok", detail=f"compiled; used are {used}{lacking}")


def _dali(answer: Answer | None) -> Check:
    if answer is None:
        return Check(
            name="dali",
            state="missing",
            detail="not installed; optional: decoding on GPUs (image_decoder: dali)",
            remedy=f"{_pip()} {_quoted(requirement_of(PACKAGE_OF['dali']))}",
        )
    if answer.found is None:
        return _failed("dali", answer, PACKAGE_OF["dali"], required=False)
    return Check(name="dali", state="ok", detail=f"{answer.found['version']}, decoded a picture on the CPU")


def _pictures_by(torch: Answer, dali: Answer | None) -> Check:
    """What `image_decoder: auto` is here, by the rule that a stream goes by."""
    if torch.found is None:
        return Check(name="image_decoder: auto", state="note", detail="unknown, since torch does not work")
    if torch.found["gpus"] and dali is not None:
        state: State = "ok" if dali.found is not None else "broken"
        why = "" if dali.found is not None else ", which does not work: set image_decoder: cpu"
        return Check(name="image_decoder: auto", state=state, detail=f"dali on the GPU{why}")
    why = "torch sees no GPU" if not torch.found["gpus"] else "DALI is not installed"
    return Check(name="image_decoder: auto", state="ok", detail=f"the CPU ({why})")


def _optional(module: str, answer: Answer | None) -> Check:
    package, purpose = OPTIONAL[module]
    if answer is None:
        remedy = f"{_pip()} {_quoted(requirement_of(package))}"
        return Check(name=package, state="missing", detail=f"not installed; optional: {purpose}", remedy=remedy)
    if answer.found is None:
        return _failed(package, answer, package, required=False)
    return Check(name=package, state="ok", detail=f"{answer.found['version']}; {purpose}".removeprefix("; "))


def _gpu_left_idle(torch: Answer) -> Iterator[Check]:
    """A GPU that the driver has and torch cannot use."""
    driver = Path("/proc/driver/nvidia/version")
    if torch.found is None or torch.found["gpus"] or not driver.is_file():
        return
    built = torch.found["built for CUDA"]
    why = f"its driver may be too old for CUDA {built}" if built else "this torch is built for CPUs only"
    yield Check(
        name="gpu",
        state="note",
        detail=f"NVIDIA's driver is loaded, but torch sees no GPU: {why}",
        remedy="https://pytorch.org/get-started/locally names the build for your driver",
    )


def _machine(folder: Path) -> Iterator[Check]:
    cores = machine.cores()
    of = f"{cores.allowed} of {cores.there}" if cores.allowed != cores.there else f"{cores.there}"
    if cores.quota is not None and cores.quota < cores.allowed:
        yield Check(
            name="cores",
            state="note",
            detail=f"{of}, but the control group gets the time of {cores.quota:g}",
            remedy=f"set engine.workers: {max(1, round(cores.quota))} in builds",
        )
    else:
        yield Check(name="cores", state="ok", detail=f"{of}: a build has as many workers")
    memory = machine.memory()
    limit = "" if memory.limit is None else f", the control group's limit is {memory.limit / _GIB:.1f} GiB"
    size = "unknown" if memory.there is None else f"{memory.there / _GIB:.1f} GiB"
    small = memory.usable is not None and memory.usable < _GIB * cores.usable
    yield Check(
        name="memory",
        state="note" if small else "ok",
        detail=size + limit + (": less than 1 GiB for each worker" if small else ""),
        remedy="set engine.workers lower in builds" if small else "",
    )
    soft, hard = machine.open_files()
    few = 0 <= soft < 1024
    yield Check(
        name="open files",
        state="note" if few else "ok",
        detail=("without limit" if soft < 0 else f"{soft:,}")
        + (f", may be raised to {hard:,}" if hard > soft >= 0 else ""),
        remedy=f"ulimit -n {min(65_536, hard) if hard > 0 else 65_536}; or a lower fetch.concurrency" if few else "",
    )
    for name, path, least, remedy in (
        ("disk", folder, 10, "give output.path a larger disk"),
        ("/dev/shm", Path("/dev/shm"), 1, "workers of a DataLoader need it: docker run --shm-size=8g"),
    ):
        found = machine.room(path) if path.exists() or name == "disk" else None
        if found is None:
            yield Check(name=name, state="note", detail="not there", remedy=remedy if name != "disk" else "")
            continue
        little = found[0] < least * _GIB
        yield Check(
            name=name,
            state="note" if little else "ok",
            detail=f"{found[0] / _GIB:.1f} GiB free of {found[1] / _GIB:.1f} ({path})",
            remedy=remedy if little else "",
        )


def lines(check: Check) -> str:
    """A check as it is shown: state, name, what was seen, and on a line of its own what to do."""
    body = f"{check.state:<8}{check.name:<20} {check.detail}"
    text = textwrap.fill(body, 118, subsequent_indent=" " * 29, break_long_words=False, break_on_hyphens=False)
    return text + (f"\n{'':29}-> {check.remedy}" if check.remedy else "")


@unread.stops
def main(argv: Sequence[str] | None = None) -> int:
    """The command. Returns the exit code: 0 where all that is required works, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m mmdata.doctor",
        description="Check this environment: packages, decoders and which is used for what, stores, and what the "
        "machine grants. Each package is tried in a process of its own. Takes half a minute; nothing is fetched.",
        epilog="ok: works; note: works, mind what is said; missing: not installed; broken: there, and does not work.\n"
        "exit codes: 0 all that is required works; 1 something required is missing or broken.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), metavar="DIR", help="where datasets will lie (default: here)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    checks = []
    for check in examine(options.folder.absolute()):
        checks.append(check)
        if not options.json:
            print(lines(check), flush=True)
    wrong = [check for check in checks if check.required and check.state in ("missing", "broken")]
    if options.json:
        print(json.dumps({"ok": not wrong, "checks": [dataclasses.asdict(check) for check in checks]}, indent=1))
    elif wrong:
        print(f"{len(wrong)} required things do not work: {', '.join(check.name for check in wrong)}")
    else:
        print("all that is required works")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
