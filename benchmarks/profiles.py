"""Where the time of a benchmark goes: its processes sampled by py-spy, native frames too, folded into shares.

    python -m benchmarks.profiles                  # all that `docs/performance.md` quotes, into results/profiles
    python -m benchmarks.profiles near_dup         # one of them
    python -m benchmarks.profiles --table          # only the page, of the profiles that are there

A sample is what a thread was doing when it was looked at, and only threads that run are counted: shares are of CPU
time, not of waiting. Of the samples those are kept that pass through a frame which the profile names, so that peers in
the same run do not count. py-spy comes with `.[dev]`; it may need root, or `ptrace_scope` 0.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import claims

FOLDER = claims.RESULTS / "profiles"
PAGE = FOLDER / "README.md"
OURS = r"\((mmdata|mmtrain)/"
MEASURED = r"^measured \(benchmarks/_options"
"""Where a benchmark has `--ours`."""
SHOWN = 12
KEPT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is run and looked at.

    benchmark   module of this package
    arguments   of its command line
    what        in words
    within      samples count whose stack has a frame like this ("name (file)"), as a regular expression
    without     and none like this
    process     and whose process was started by a command like this
    native      frames of C and C++ too; a process that lives for less than a second is better looked at without
    rate        samples a second
    """

    benchmark: str
    what: str
    arguments: tuple[str, ...] = ("--quick",)
    within: str = OURS
    without: str | None = None
    process: str | None = None
    native: bool = True
    rate: int = 200

    @property
    def command(self) -> tuple[str, ...]:
        return ("-m", f"benchmarks.{self.benchmark}", *self.arguments)


PROFILES: dict[str, Profile] = {
    "near_dup": Profile(benchmark="near_dup", what="near-duplicate search"),
    "indexing": Profile(
        benchmark="indexing",
        what="an index of 400 photographs and of 20,000 small pictures, without sums, the whole command",
        arguments=("--quick", "--ours", "6"),
        process=r"-m mmdata\.index .*--digest none",
        native=False,
    ),
    "indexing_sums": Profile(
        benchmark="indexing",
        what="an index of the same, with sums and without a report",
        arguments=("--quick", "--ours", "4"),
        process=r"-m mmdata\.index (?!.*--digest).*--no-report",
        native=False,
    ),
    "shard_writing": Profile(
        benchmark="shard_writing",
        what="shards of photographs with index and crc32c",
        arguments=("--quick", "--ours", "250"),
        within=MEASURED,
    ),
    "processors_qwen2_vl": Profile(
        benchmark="processors",
        what="Qwen2-VL's preprocessing, float32",
        arguments=("--quick", "--ours", "120", "qwen2_vl"),
        within=MEASURED,
        native=False,
    ),
    "processors_idefics3": Profile(
        benchmark="processors",
        what="Idefics3's preprocessing, float32",
        arguments=("--quick", "--ours", "60", "idefics3"),
        within=MEASURED,
        native=False,
    ),
    "decode_resize": Profile(
        benchmark="decode_resize",
        what="JPEG to 336 x 336 normalised floats, exact",
        arguments=("--quick", "--ours", "60", "--sizes", "336"),
        within=MEASURED,
    ),
    "audio_flac": Profile(
        benchmark="audio_load",
        what="FLAC of 16 kHz mono",
        arguments=("--quick", "--ours", "2500", "flac 16"),
        within=MEASURED,
    ),
    "audio_compressed": Profile(
        benchmark="audio_load",
        what="mp3, vorbis, opus and m4a to 16 kHz mono",
        arguments=("--quick", "--ours", "120", "mp3", "vorbis", "opus", "m4a"),
        within=MEASURED,
        native=False,
    ),
    "video_decode": Profile(
        benchmark="video_decode",
        what="frames of H.264 clips: 32 uniform ones, key frames, all",
        arguments=("--quick", "--ours", "4"),
        within=MEASURED,
    ),
    "stream_startup": Profile(
        benchmark="stream_startup",
        what="beginning a stream and going on in its middle, again and again in one process",
        arguments=("--quick", "--ours", "4000"),
        within=MEASURED,
        native=False,
    ),
    "small_shards": Profile(
        benchmark="stream_memory",
        what="samples of 2 KB in shards of 20",
        arguments=("--quick", "--ours", "250"),
        within=MEASURED,
        native=False,
    ),
    "stream_raw": Profile(
        benchmark="stream_raw",
        what="samples of 310 KB, without and with crc32c",
        arguments=("--quick", "--ours", "60"),
        within=MEASURED,
    ),
    "stream_decoded": Profile(
        benchmark="stream_decoded",
        what="photographs to batches of 336 x 336 floats by our own decoder, two threads",
        arguments=("--quick", "--ours", "16"),
        within=r"\(mmdata/stream/",
    ),
    "packed_training": Profile(
        benchmark="packed_training",
        what="packed training on the CPU",
        arguments=("--quick", "--ours", "10"),
        within=MEASURED,
        native=False,
    ),
    **{
        f"build_{mode.replace('-', '_')}": Profile(
            benchmark="build_vs_img2dataset",
            what=f"a build of 1,000 pictures from URLs, mode `{mode}`, all of its processes",
            arguments=("--ours", passes, "--rows", "1000", "--modes", mode),
            process=r"-m mmdata\.build",
            native=False,
        )
        for mode, passes in (("keep-header", "4"), ("keep", "2"), ("resize-fast", "2"), ("resize", "2"))
    },
}


@dataclass(frozen=True, slots=True)
class Stack:
    """One line of py-spy: the process's command, the frames from the outermost, and how often it was seen."""

    process: str
    frames: tuple[str, ...]
    count: int


LINE = re.compile(r'(?:process \d+:"(?P<process>[^"]*)";)?(?P<frames>.*) (?P<count>\d+)')
PLACE = re.compile(r"(?P<name>.*) \((?P<file>[^()]*?)(?::\d+)?\)")


def stacks(text: str) -> list[Stack]:
    """py-spy's raw format. Frames lose their line and, where no symbol is known, their address; of a process's children
    the innermost process counts.

    >>> stacks('process 7:"python x.py";process 8:"python y.py";thread (0x1);f (mmdata/a.py:3);0x7f1 (libc.so.6) 2')
    [Stack(process='python y.py', frames=('f (mmdata/a.py)', '? (libc.so.6)'), count=2)]
    """
    found = []
    for line in text.splitlines():
        *_, last = re.split(r'(?=process \d+:")', line)
        told = LINE.fullmatch(last)
        if told is None:
            raise ValueError(f"not a line of py-spy's raw format: {line[:120]}")
        frames = [frame for frame in told["frames"].split(";") if frame and not frame.startswith("thread (")]
        found.append(Stack(told["process"] or "", tuple(map(_frame, frames)), int(told["count"])))
    return found


def _frame(told: str) -> str:
    parts = PLACE.fullmatch(told)
    if parts is None:
        return told
    name = "?" if re.fullmatch(r"0x[0-9a-f]+", parts["name"]) else parts["name"]
    return f"{name} ({parts['file'].removeprefix('/')})"


def kept(found: Iterable[Stack], profile: Profile) -> list[Stack]:
    """Those that the profile asks for."""
    within = re.compile(profile.within)
    without = re.compile(profile.without) if profile.without else None
    process = re.compile(profile.process) if profile.process else None
    return [
        each
        for each in found
        if any(map(within.search, each.frames))
        and not (without and any(map(without.search, each.frames)))
        and not (process and not process.search(each.process))
    ]


def shares(found: Sequence[Stack]) -> dict[str, list[tuple[str, float]]]:
    """Of all samples, the share of each function, largest first.

    own     it was innermost
    ours    it was the innermost function of mmdata or mmtrain: its own time and that of libraries which it calls
    below   it was anywhere: its time and that of all which it calls, functions of mmdata and mmtrain only

    >>> shares(stacks("f (mmdata/a.py:3);g (numpy/b.py:4) 3\\nf (mmdata/a.py:5) 1"))["own"]
    [('g (numpy/b.py)', 0.75), ('f (mmdata/a.py)', 0.25)]
    """
    counts: dict[str, Counter[str]] = {"own": Counter(), "ours": Counter(), "below": Counter()}
    for each in found:
        ours = [frame for frame in each.frames if re.search(OURS, frame)]
        counts["own"][each.frames[-1]] += each.count
        if ours:
            counts["ours"][ours[-1]] += each.count
        for frame in set(ours):
            counts["below"][frame] += each.count
    total = sum(each.count for each in found)
    return {
        name: [(where, round(count / total, 4)) for where, count in counter.most_common(KEPT)]
        for name, counter in counts.items()
    }


def run(name: str, profile: Profile, folder: Path = FOLDER) -> Path:
    """Run the benchmark under py-spy, its figures thrown away, and write the shares. Raises RuntimeError with what
    py-spy says when it cannot."""
    with tempfile.TemporaryDirectory() as made:
        raw = Path(made) / "raw"
        command = [sys.executable, *profile.command, "--json", f"{made}/result.json"]
        options = ["--subprocesses", "--rate", str(profile.rate), "--format", "raw", "--output", str(raw)]
        if profile.native:
            options.append("--native")
        spy = Path(sys.executable).with_name("py-spy")
        if not spy.exists():
            raise RuntimeError(f"{name}: py-spy is not installed; pip install py-spy")
        done = subprocess.run([spy, "record", *options, "--", *command], capture_output=True, text=True, check=False)
        if not raw.exists():
            raise RuntimeError(f"{name}: py-spy wrote nothing: {(done.stderr or done.stdout).strip()[-600:]}")
        found = stacks(raw.read_text())
    chosen = kept(found, profile)
    if not chosen:
        raise RuntimeError(f"{name}: none of {sum(each.count for each in found)} samples is within {profile.within!r}")
    content = {
        "name": name,
        "what": profile.what,
        "measured": time.strftime("%Y-%m-%d"),
        "command": f"python -m benchmarks.profiles {name}",
        "profiled": " ".join(["python", *profile.command]),
        "machine": {**claims.BEFORE, "load_after": claims.machine()["load"]},
        "within": profile.within,
        "without": profile.without,
        "process": profile.process,
        "samples": sum(each.count for each in chosen),
        "rate": profile.rate,
        **shares(chosen),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(path, flush=True)
    return path


def page(found: Iterable[Mapping[str, Any]]) -> str:
    """Markdown of the profiles: what is innermost, and which of our functions it is called from."""
    told = [
        "# Profiles",
        "Written by `python -m benchmarks.profiles` out of the JSON files beside it, which have more rows. A share is "
        "of the samples of running threads, taken by py-spy; *in or from* is the innermost function of ours, with the "
        "libraries it calls, *below* all that a function of ours calls, and *own* the innermost function of all. "
        "[docs/performance.md](../../../docs/performance.md) says what follows from them.",
    ]
    for each in found:
        about = f"`{each['command']}` looks at `{each['profiled']}`, {each['measured']}: {each['samples']:,} samples."
        told += [f"## {each['name']}: {each['what']}", about]
        rows = ["| in or from | | below | | own | |", "| --- | ---: | --- | ---: | --- | ---: |"]
        for number in range(SHOWN):
            cells = []
            for kind in ("ours", "below", "own"):
                where, share = each[kind][number] if number < len(each[kind]) else ("", None)
                cells += [where.replace("|", "/").replace("<", "\\<"), "" if share is None else f"{share:.1%}"]
            rows.append("| " + " | ".join(cells) + " |")
        told.append("\n".join(rows))
    return "\n\n".join(told) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profiles",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PROFILES)}; all without one")
    parser.add_argument("--table", action="store_true", help="only write the page anew, of the profiles that are there")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in PROFILES]:
        parser.error(f"{unknown[0]!r} is none of {', '.join(PROFILES)}")
    failed = []
    for name in [] if arguments.table else arguments.names or PROFILES:
        try:
            run(name, PROFILES[name])
        except RuntimeError as error:
            failed.append(name)
            print(error, file=sys.stderr)
    FOLDER.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(json.loads(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))))
    print(PAGE)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
