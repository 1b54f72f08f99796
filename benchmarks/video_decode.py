"""Video frames by number, key frames and whole videos: ours against torchcodec, PyAV, decord and OpenCV used directly.

`python -m benchmarks.video_decode [--rounds 7] [--threads 1] [--clips DIR] [--seconds 20]`: H.264 clips encoded from a
photograph under a moving camera, and whatever video files lie in DIR. Frames are compared bit for bit before anything
is timed; contenders take turns, and claims are of CPU time. Peak memory is that of a
process of its own, above what it holds before it decodes.

Where no packet may be left out (no disposable frames, all of one group of pictures), all contenders run the same
decoder over the same packets, and ratios are about 1: of 360p a frame takes 0.8 to 0.9 ms to decode and 0.1 to 0.2 to
become RGB, while PyAV's objects and ours take a few hundredths. A single key frame is half opening the file (2.3 of
4.9 ms, under load), for PyAV as for us.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from benchmarks import _options
from benchmarks._interleaved import Row, table, turns
from benchmarks.claims import Claim, beside, best_of, figure, installed, write

WANTED = 32
OURS = "ours, table at hand"
Contender = Callable[[bytes, list[int], int], np.ndarray]


def ours_packets(table: Any) -> Contender:
    from mmdata.decode.video import decode_frames

    return lambda data, wanted, threads: (
        decode_frames(data, wanted, packets=table, threads=threads).pixels.permute(0, 2, 3, 1).numpy()
    )


def ours(data: bytes, wanted: list[int], threads: int) -> np.ndarray:
    return ours_packets(None)(data, wanted, threads)


def pyav_scan(data: bytes, wanted: list[int], threads: int) -> np.ndarray:
    """Decode on to the last wanted frame, convert the wanted ones."""
    chosen = set(wanted)
    found = []
    with av.open(io.BytesIO(data)) as file:
        track = file.streams.video[0]
        track.thread_type = "AUTO" if threads > 1 else "NONE"
        track.codec_context.thread_count = threads
        for number, frame in enumerate(file.decode(track)):
            if number in chosen:
                found.append(frame.to_ndarray(format="rgb24", threads=threads))
            if number == wanted[-1]:
                break
    return np.stack(found)


def torchcodec_exact(data: bytes, wanted: list[int], threads: int) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder

    reader = VideoDecoder(data, seek_mode="exact", num_ffmpeg_threads=threads, dimension_order="NHWC")
    return reader.get_frames_at(wanted).data.numpy()


def decord_batch(data: bytes, wanted: list[int], threads: int) -> np.ndarray:
    import decord

    return decord.VideoReader(io.BytesIO(data), num_threads=threads).get_batch(wanted).asnumpy()


def opencv_scan(data: bytes, wanted: list[int], threads: int) -> np.ndarray:
    import cv2

    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(data)
        file.flush()
        capture = cv2.VideoCapture(file.name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, threads])
        found, number = [], 0
        for index in wanted:
            while number <= index:
                capture.grab()
                number += 1
            found.append(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))
    return np.stack(found)


PEERS: dict[str, Contender] = {
    "torchcodec exact": torchcodec_exact,
    "PyAV scan": pyav_scan,
    "decord": decord_batch,
    "OpenCV": opencv_scan,
}


def encode(seconds: int, options: dict[str, str], size: tuple[int, int] = (360, 640)) -> bytes:
    """A camera that pans and zooms over a photograph, as H.264 of 30 frames a second."""
    from PIL import Image
    from skimage import data as photos

    photo = Image.fromarray(photos.coffee())
    height, width = size
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        track: Any = file.add_stream("libx264", rate=30)
        track.width, track.height, track.pix_fmt = width, height, "yuv420p"
        track.options = {"preset": "medium", "crf": "23", **options}
        for number in range(30 * seconds):
            angle = number / 47
            scale = 0.45 + 0.15 * np.sin(angle / 3)
            w = photo.width * scale
            h = w * height / width
            left = (photo.width - w) * (0.5 + 0.5 * np.sin(angle))
            top = (photo.height - h) * (0.5 + 0.5 * np.cos(angle * 0.7))
            view = photo.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + w, top + h))
            frame = av.VideoFrame.from_ndarray(np.asarray(view), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            file.mux(track.encode(frame))
        file.mux(track.encode())
    return out.getvalue()


def clips(seconds: int, folder: Path | None) -> dict[str, bytes]:
    found = {
        "x264 defaults (long GOPs)": encode(seconds, {}),
        "GOP of 15": encode(seconds, {"g": "15"}),
        "no B-frames": encode(seconds, {"bf": "0"}),
        "4 B-frames, none kept": encode(seconds, {"x264-params": "bframes=4:b-pyramid=none:b-adapt=0"}),
    }
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.suffix in (".mp4", ".mkv", ".webm", ".mov"):
            found[path.name] = path.read_bytes()
    return found


def compare(name: str, data: bytes, rounds: int, threads: int) -> tuple[list[Claim], dict[str, Any]]:
    from mmdata.decode import packets as tables
    from mmdata.decode import video

    packets = video.read_packets(data)
    count = len(tables.shown(packets))
    disposable = int((packets.flags & 2 > 0).sum())
    keys = video.keyframes(packets).tolist()
    print(f"{name}: {len(data) / 1e6:.2f} MB, {count} frames, {len(keys)} keys, {disposable} disposable; ms a frame")
    wanted = [index * count // WANTED for index in range(WANTED)]
    contenders = {OURS: ours_packets(packets), "ours, no table": ours, **PEERS}
    skips = disposable > 0 or len(keys) > count // 30
    claims: list[Claim] = []
    figures: dict[str, dict[str, list[Row]]] = {}
    for task, indices, goal in (
        (f"{WANTED} uniform frames", wanted, 1.15 if skips else 1.0),
        ("key frames", keys, 1.0),
    ):
        truth = pyav_scan(data, indices, 1)
        calls: dict[str, Callable[[], object]] = {}
        missing: dict[str, str] = {}
        for label, call in contenders.items():
            try:
                equal = np.array_equal(call(data, indices, threads), truth)
            except (RuntimeError, ImportError) as error:
                missing[label] = str(error).splitlines()[0][:60]
                continue
            if equal:
                calls[label] = lambda call=call, indices=indices: call(data, indices, threads)  # type: ignore[misc]
            else:
                missing[label] = "returns other frames"
        found = figures[task] = turns(calls, rounds, each=len(indices))
        print(f"  {task}" + "".join(f"; {label}: {why}" for label, why in missing.items()))
        table(found, scale={"seconds": 1e3, "cpu": 1e3})
        what, head = f"{task}, {name}", task != "key frames" and name in ("GOP of 15", "x264 defaults (long GOPs)")
        claims.append(best_of(what, found, OURS, PEERS, by="cpu", goal=goal, headline=head, missing=missing))
    for at_once in (1, 8):
        found = figures[f"whole, {at_once}"] = turns(whole(data, packets, threads, at_once), rounds, each=count)
        print(f"  whole video, {at_once} at a time")
        table(found, scale={"seconds": 1e3, "cpu": 1e3})
        claims.append(beside(f"every frame, {at_once} at a time, {name}", found, "ours", "PyAV", by="cpu", goal=1.0))
    return claims, figures


def whole(data: bytes, table: Any, threads: int, at_once: int) -> dict[str, Callable[[], object]]:
    """Every frame as RGB, `at_once` in one array."""
    from mmdata.decode.video import iter_frames

    def mine() -> None:
        for _ in iter_frames(data, chunk=at_once, packets=table, threads=threads):
            pass

    def pyav() -> None:
        held = []
        with av.open(io.BytesIO(data)) as file:
            track = file.streams.video[0]
            track.thread_type = "AUTO" if threads > 1 else "NONE"
            track.codec_context.thread_count = threads
            for frame in file.decode(track):
                held.append(frame.to_ndarray(format="rgb24", threads=threads))
                if len(held) == at_once:
                    piece = np.stack(held) if at_once > 1 else held[0]  # kept until the next, as ours is
                    held.clear()
        del piece

    return {"ours": mine, "PyAV": pyav}


def mine(data: bytes, threads: int) -> list[Callable[[], object]]:
    """The tasks of `compare` by ours alone."""
    from mmdata.decode import video

    packets = video.read_packets(data)
    uniform = [index * len(packets.pts) // WANTED for index in range(WANTED)]
    asked = (uniform, video.keyframes(packets).tolist())
    chosen = [partial(ours_packets(packets), data, indices, threads) for indices in asked]
    return [*chosen, whole(data, packets, threads, 1)["ours"]]


MEMORY = """
import sys, torch, av
from benchmarks import video_decode as bench
from mmdata.decode import video
data = open(sys.argv[1], "rb").read()
table = video.read_packets(data)
wanted = [index * len(table.pts) // 32 for index in range(32)]
call = {**bench.PEERS, "ours": bench.ours_packets(table)}[sys.argv[2]]
call(data, wanted[:1], 1)
def held(name):
    line = next(line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = held("VmRSS")
batch = call(data, wanted, 1)
print(held("VmHWM") - before, batch.nbytes / 2**20)
"""


def memory(data: bytes) -> list[Claim]:
    """What 32 uniform frames take above what the process held, over the size of their batch."""
    claims: list[Claim] = []
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        for name in ("ours", *PEERS):
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, file.name, name], capture_output=True, text=True, check=False
            )
            if done.returncode == 0:
                grown, batch = map(float, done.stdout.split()[-2:])
                print(f"  {name:28s} {grown:7.1f} MiB more for a batch of {batch:.1f} MiB")
                goal = 1.5 if name == "ours" else None
                claims.append(figure("memory of 32 frames", name, [grown / batch], "batches", goal=goal, at_most=True))
    return claims


def with_torchcodec(module: str = "benchmarks.video_decode") -> None:
    """torchcodec wants FFmpeg's shared libraries under their plain names; where the system has none, start again with
    those of PyAV's wheel, which are the same to all contenders but decord and OpenCV."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"")
    except RuntimeError as error:
        if "Could not load" not in str(error) or "MMDATA_BENCH_LIBS" in os.environ:
            return
    except (ImportError, ValueError):
        return
    else:
        return
    bundled = Path(av.__file__).parents[1] / "av.libs"
    folder = Path(tempfile.mkdtemp(prefix="ffmpeg-"))
    for library in bundled.glob("*.so*"):
        stem, _, version = library.name.partition(".so")
        plain = folder / f"{stem.rsplit('-', 1)[0]}.so.{version.strip('.').split('.')[0]}"
        if not plain.exists():
            plain.symlink_to(library)
    environment = {**os.environ, "LD_LIBRARY_PATH": f"{folder}:{bundled}", "MMDATA_BENCH_LIBS": str(folder)}
    os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--clips", type=Path, help="a folder of further videos")
    _options.add_ours(parser)
    arguments = _options.parse(parser, rounds=3, seconds=4)
    if not arguments.ours:
        with_torchcodec()
    import torch

    torch.set_num_threads(arguments.threads)
    made = clips(arguments.seconds, arguments.clips)
    if arguments.ours:
        _options.repeat(arguments.ours, [call for data in made.values() for call in mine(data, arguments.threads)])
        return
    claims: list[Claim] = []
    figures = {}
    for name, data in made.items():
        more, figures[name] = compare(name, data, arguments.rounds, arguments.threads)
        claims += more
    largest = max(made, key=lambda name: len(made[name]))
    print(f"peak memory of {WANTED} uniform frames of {largest}")
    claims += memory(made[largest])
    peers = installed("torchcodec", "av", "decord", "opencv-python")
    write("video_decode", claims, figures=figures, peers=peers, threads=arguments.threads, to=arguments.json)


if __name__ == "__main__":
    main()
