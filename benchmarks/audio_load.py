"""Encoded sound to a mono waveform at 16 kHz: ours against torchcodec, soundfile with soxr, librosa, PyAV with FFmpeg's
resampler and DALI, per format, as ratios in one run.

`python -m benchmarks.audio_load [--rounds 9] [--threads 1] [--seconds 20]`: contenders take turns over the same bytes;
each uses the resampler it comes with, so only ours (and torchaudio) give the same numbers as torchaudio.

Why m4a and opus stay near torchcodec: both call the same FFmpeg, which takes most of the time, torchcodec without an
object for each packet and frame (profile `audio_compressed`, docs/performance.md). FLAC is decoded by a kernel of ours.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import av
import numpy as np
import soundfile
import torch
from threadpoolctl import threadpool_limits

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks.claims import best_of, installed, write
from benchmarks.video_decode import with_torchcodec

Contender = Callable[[bytes], Any]
RATE = 16_000


def sound(seconds: int, rate: int) -> np.ndarray:
    """Two voices and noise: float32 [samples, 2]."""
    time = np.arange(seconds * rate) / rate
    random = np.random.default_rng(0)
    voices = [0.05 * sum(np.sin(2 * np.pi * k * (f + 2 * time) * time) / k for k in range(1, 12)) for f in (110, 190)]
    return np.stack(voices, axis=1).astype(np.float32) + 0.01 * random.standard_normal((len(time), 2)).astype(
        np.float32
    )


def files(seconds: int) -> dict[str, bytes]:
    def write(rate: int, format: str, subtype: str, channels: int = 2) -> bytes:
        out = io.BytesIO()
        soundfile.write(out, sound(seconds, rate)[:, :channels], rate, format=format, subtype=subtype)
        return out.getvalue()

    return {
        "wav 16 kHz mono": write(16_000, "WAV", "PCM_16", 1),
        "wav 44.1 kHz stereo": write(44_100, "WAV", "PCM_16"),
        "wav 48 kHz stereo 24 bits": write(48_000, "WAV", "PCM_24"),
        "flac 44.1 kHz stereo": write(44_100, "FLAC", "PCM_16"),
        "flac 16 kHz mono": write(16_000, "FLAC", "PCM_16", 1),
        "mp3 44.1 kHz stereo": write(44_100, "MP3", "MPEG_LAYER_III"),
        "vorbis 44.1 kHz stereo": write(44_100, "OGG", "VORBIS"),
        "opus 48 kHz stereo": write(48_000, "OGG", "OPUS"),
        "m4a 44.1 kHz stereo": m4a(sound(seconds, 44_100), 44_100),
    }


def m4a(wave: np.ndarray, rate: int) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="ipod") as file:
        track: Any = file.add_stream("aac", rate=rate)
        track.layout = "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave.T), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        cutter = av.AudioResampler("fltp", "stereo", rate, frame_size=1024)
        for piece in [*cutter.resample(frame), *cutter.resample(None)]:
            file.mux(track.encode(piece))
        file.mux(track.encode(None))
    return out.getvalue()


def by_soundfile(data: bytes) -> np.ndarray:
    import soxr

    wave, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    mono = wave[:, 0] if wave.shape[1] == 1 else wave.mean(axis=1)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE)


def by_librosa(data: bytes) -> np.ndarray:
    import librosa

    return librosa.load(io.BytesIO(data), sr=RATE)[0]


def by_torchcodec(data: bytes) -> torch.Tensor:
    from torchcodec.decoders import AudioDecoder

    return AudioDecoder(data, sample_rate=RATE, num_channels=1).get_all_samples().data[0]


def by_pyav(data: bytes) -> np.ndarray:
    resampler = av.AudioResampler("fltp", "mono", RATE)
    with av.open(io.BytesIO(data)) as file:
        pieces = [piece for frame in file.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([piece.to_ndarray()[0] for piece in [*pieces, *resampler.resample(None)]])


def by_ours(data: bytes) -> torch.Tensor:
    from mmdata.decode.audio import decode

    return decode(data)


def dali() -> Contender | None:
    """A pipeline of DALI's CPU operators that is fed one file at a time."""
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError:
        return None

    @pipeline_def(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    def load() -> Any:
        encoded = fn.external_source(name="file", dtype=types.UINT8, ndim=1)
        return fn.decoders.audio(encoded, sample_rate=RATE, downmix=True, dtype=types.FLOAT)[0]

    pipeline = load()
    pipeline.build()

    def run(data: bytes) -> np.ndarray:
        pipeline.feed_input("file", [np.frombuffer(data, np.uint8)])
        return np.asarray(pipeline.run()[0].at(0))

    return run


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("formats", nargs="*", default=[""], metavar="FORMAT", help="whose names begin so; all without")
    _options.add_ours(parser)
    arguments = _options.parse(parser, rounds=5, seconds=10)
    if not arguments.ours:
        with_torchcodec("benchmarks.audio_load")
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")  # its idle threads spin, at the expense of whoever comes next
    chosen = {
        name: data for name, data in files(arguments.seconds).items() if name.startswith(tuple(arguments.formats))
    }
    if arguments.ours:
        _options.repeat(arguments.ours, [partial(by_ours, data) for data in chosen.values()])
        return
    contenders: dict[str, Contender] = {
        "torchcodec": by_torchcodec,
        "soundfile + soxr": by_soundfile,
        "librosa": by_librosa,
        "PyAV + swresample": by_pyav,
        "ours": by_ours,
    }
    missing = {}
    pipeline = dali() if arguments.threads == 1 else None  # a pipeline is for one thread
    if pipeline:
        contenders["DALI"] = pipeline
    else:
        missing["DALI"] = "not installed" if arguments.threads == 1 else "a pipeline is for one thread"
    claims, figures = [], {}
    for name, data in chosen.items():
        able = {peer: call for peer, call in contenders.items() if runs(call, data)}
        batch = [data] * (10 * arguments.threads)  # so many that the first, which finds caches cold, counts little
        with ThreadPoolExecutor(arguments.threads) as pool:
            run = pool.map if arguments.threads > 1 else map
            ways = {peer: lambda call=call, run=run, batch=batch: list(run(call, batch)) for peer, call in able.items()}  # type: ignore[misc]
            found = figures[name] = turns(ways, arguments.rounds, each=len(batch))
        unable = ", ".join(sorted(contenders.keys() - able)) or "none"
        print(f"{name}, {len(data) / 1e6:.2f} MB, {arguments.threads} thread(s), ms; cannot read it: {unable}")
        table(found, scale={"seconds": 1e3, "cpu": 1e3})
        peers = [peer for peer in found if peer != "ours"]
        by = "cpu" if arguments.threads == 1 else "seconds"
        what = f"{name} to 16 kHz mono" + ("" if by == "cpu" else ", wall time")
        claims.append(
            best_of(what, found, "ours", peers, by=by, goal=1.0, headline=name.startswith(("flac 44", "mp3")))
        )
    peers_there = installed("torchcodec", "soundfile", "soxr", "librosa", "av", "nvidia-dali-cuda130")
    told = {"figures": figures, "missing": missing, "peers": peers_there, "to": arguments.json}
    write("audio_load", claims, threads=arguments.threads, **told)


def runs(call: Contender, data: bytes) -> bool:
    """Whether a contender reads the format at all."""
    try:
        return len(call(data)) > 0
    except Exception:  # each library has its own way to say no
        return False


if __name__ == "__main__":
    main()
