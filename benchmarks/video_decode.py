"""Video frames by number, key frames and whole videos: ours against torchcodec, PyAV, decord and OpenCV used directly.

python -m benchmarks.video_decode [--repeats 7] [--threads 1] [--clips DIR] [--seconds 20]: H.264 clips encoded from a
photograph under a moving camera, and whatever video files lie in DIR. Frames are compared bit for bit before anything
is timed; contenders take turns, and the ratios are of CPU time and of wall time in this run. Peak memory is that of a
process of its own, above what it holds before it decodes.

Where no packet may be left out (no disposable frames, all of one group of pictures), all contenders run the same
decoder over the same packets, and ratios are about 1: of 360p a frame takes 0.8 to 0.9 ms to decode and 0.1 to 0.2 to
become RGB, while PyAV's objects and ours take a few hundredths. A single key frame is half opening the file (2.3 of
4.9 ms, under load), for PyAV as for us.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WANTED = 32
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


def timed(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """(least wall, least CPU) seconds of each, taking turns."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: tuple(np.min(np.array(times), axis=0).tolist()) for name, times in spent.items()}


def show(what: str, frames: int, times: dict[str, tuple[float, float]]) -> None:
    print(f"  {what}")
    wall, cpu = (min(t[at] for name, t in times.items() if not name.startswith("ours")) for at in (0, 1))
    for name, (spent, used) in times.items():
        print(
            f"    {name:28s} {frames / spent:8.1f} frames/s   {1e3 * used / frames:7.2f} CPU ms a frame   "
            f"best peer / this: {wall / spent:5.2f} wall, {cpu / used:5.2f} CPU"
        )


def compare(name: str, data: bytes, repeats: int, threads: int) -> None:
    from mmdata.decode import packets as tables
    from mmdata.decode import video

    table = video.read_packets(data)
    count = len(tables.shown(table))
    disposable = int((table.flags & 2 > 0).sum())
    keys = video.keyframes(table).tolist()
    print(f"{name}: {len(data) / 1e6:.2f} MB, {count} frames, {len(keys)} keys, {disposable} disposable")
    wanted = [index * count // WANTED for index in range(WANTED)]
    contenders = {"ours, table at hand": ours_packets(table), "ours, no table": ours, **PEERS}
    for task, indices in ((f"{WANTED} uniform", wanted), ("key frames", keys)):
        truth = pyav_scan(data, indices, 1)
        usable = {}
        for label, call in contenders.items():
            try:
                equal = np.array_equal(call(data, indices, threads), truth)
            except (RuntimeError, ImportError) as error:
                print(f"    {label}: not run ({str(error).splitlines()[0][:60]})")
                continue
            if equal:
                usable[label] = call
            else:
                print(f"    {label}: other frames; not timed")
        calls = {
            label: (lambda call=call, indices=indices: call(data, indices, threads)) for label, call in usable.items()
        }
        show(task, len(indices), timed(calls, repeats))
    for at_once in (1, 8):
        calls = whole(data, table, threads, at_once)
        show(f"whole video, {at_once} at a time", count, timed(calls, max(2, repeats // 2)))


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


def memory(data: bytes) -> None:
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--clips", type=Path, help="a folder of further videos")
    arguments = parser.parse_args()
    with_torchcodec()
    import torch

    torch.set_num_threads(arguments.threads)
    found = clips(arguments.seconds, arguments.clips)
    for name, data in found.items():
        compare(name, data, arguments.repeats, arguments.threads)
    largest = max(found, key=lambda name: len(found[name]))
    print(f"peak memory of {WANTED} uniform frames of {largest}")
    memory(found[largest])


if __name__ == "__main__":
    main()
