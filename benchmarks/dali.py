"""DALI against our CPU path: how far apart the pixels are, and what each costs; and how far DALI's audio is.

`python -m benchmarks.dali [--count 8] [--repeats 5] [--threads 1] [--device cpu]`: photographs of 0.2 to 4 megapixels
as JPEG, known to be whole, from bytes to a view's array. Distances are in normalised units, the worst picture's. Times
are wall milliseconds per picture, the smallest of interleaved repeats; ratios hold across machines, milliseconds do
not. On the CPU, DALI is here to be compared and to run where a GPU is not; its place is `--device gpu`.
Audio: distance of the log-mel, of resampling to 16 kHz and of decoding from the references that `views.mel` and
`decode.audio` equal, all of which must be within 1e-5 for DALI to be offered; it is not.
"""

from __future__ import annotations

import argparse
import functools
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from benchmarks._photos import write
from mmdata.decode.dali import Device, Picture, realize_images
from mmdata.decode.image import MAX_PIXELS, decode
from mmdata.views.anyres import AnyRes
from mmdata.views.fixed import Fixed
from mmdata.views.mel import log_mel_spectrogram
from mmdata.views.naflex import NaFlex
from mmdata.views.qwen import SmartResize
from mmdata.views.tiles import DynamicTiles, SplitImage

VIEWS: dict[str, Any] = {
    "fixed": Fixed(),
    "anyres": AnyRes(),
    "dynamic_tiles": DynamicTiles(),
    "split_image": SplitImage(),
    "smart_resize": SmartResize(),
    "naflex": NaFlex(),
}


def images(view: Any, encoded: Sequence[bytes], threads: int, device: Device, repeats: int) -> str:
    plans = [view.plan(decode(data, max_pixels=MAX_PIXELS).shape[:2]) for data in encoded]

    def ours() -> list[torch.Tensor]:
        return [
            view.realize(decode(data, max_pixels=MAX_PIXELS), plan) for data, plan in zip(encoded, plans, strict=True)
        ]

    def through(whole: bool) -> list[torch.Tensor]:
        pictures = [
            Picture(data=data, ops=plan.ops, on_cpu=functools.partial(view.realize, plan=plan), whole=whole)
            for data, plan in zip(encoded, plans, strict=True)
        ]
        made = realize_images(pictures, device=device, max_pixels=MAX_PIXELS, threads=threads)
        return [one.cpu() for one in made if isinstance(one, torch.Tensor)]

    apart = [(one - other).abs() for one, other in zip(through(True), ours(), strict=True)]
    mean = max(float(one.mean()) for one in apart)
    largest = max(float(one.max()) for one in apart)
    within = min(float((one <= 0.06).float().mean()) for one in apart)
    calls: tuple[Callable[[], Any], ...] = (ours, lambda: through(True), lambda: through(False))
    spent = [min(times) for times in zip(*([seconds(call) for call in calls] for _ in range(repeats)), strict=True)]
    milliseconds = [1e3 * one / len(encoded) for one in spent]
    return (
        f"{mean:8.5f} {largest:7.3f} {within:9.6f} {milliseconds[0]:9.1f} "
        f"{milliseconds[1]:7.1f} {milliseconds[2]:9.1f} {milliseconds[0] / milliseconds[1]:7.2f}"
    )


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def audio() -> None:
    import nvidia.dali.experimental.dynamic as nd
    import soundfile

    rng = np.random.default_rng(0)

    def sound(rate: int) -> np.ndarray:
        """Five seconds below 3 kHz, loud and quiet, with a little noise below the same."""
        noise = np.convolve(rng.standard_normal(rate * 5), np.hanning(rate // 2000), "same") / rate * 1000
        at = np.arange(rate * 5) / rate
        loud = np.where(at % 2 < 1, 1.0, 1e-3)
        return (loud * (0.4 * np.sin(2 * np.pi * (200 + 250 * at) * at) + 0.05 * noise)).astype(np.float32)

    def array(batch: Any) -> np.ndarray:
        return np.asarray(batch.tensors[0])

    wave = sound(16_000)
    reflected = np.pad(wave, 200, mode="reflect")
    window = torch.hann_window(400).tolist()
    with nd.EvalMode.sync_cpu:
        power = nd.spectrogram(
            nd.as_batch([reflected]),
            nfft=400,
            window_length=400,
            window_step=160,
            window_fn=window,
            center_windows=False,
        )
        bands = nd.mel_filter_bank(power, sample_rate=16e3, nfilter=80, freq_high=8e3, mel_formula="slaney")
        log = np.log10(np.maximum(array(bands)[:, : len(wave) // 160], 1e-10))
        theirs = (np.maximum(log, log.max() - 8) + 4) / 4
        print(f"log-mel, 80 bands                  {np.abs(theirs - log_mel_spectrogram(wave).numpy()).max():.1e}")
        for rate in (48_000, 44_100, 22_050, 8_000):
            original = sound(rate)
            wanted = torchaudio.functional.resample(torch.from_numpy(original), rate, 16_000).numpy()
            made = array(nd.audio_resample(nd.as_batch([original]), in_rate=float(rate), out_rate=16e3, quality=100.0))
            print(f"resampled from {rate:6d} Hz           {np.abs(made[: len(wanted)] - wanted).max():.1e}")
        for name, kind in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")):
            file = io.BytesIO()
            soundfile.write(file, wave, 16_000, format=name, subtype=kind)
            file.seek(0)
            wanted = soundfile.read(file, dtype="float32")[0]
            try:
                coded = nd.as_batch([np.frombuffer(file.getvalue(), np.uint8)])
                made = array(nd.decoders.audio(coded, dtype=nd.float32)[0]).reshape(-1)
                print(f"decoded {name:4s}                       {np.abs(made - wanted).max():.1e}")
            except RuntimeError:
                print(f"decoded {name:4s}                       not supported")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.count)
        encoded = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.suffix == ".jpg"]
    print(f"{len(encoded)} photographs, {options.threads} threads, DALI on the {options.device}")
    print("view            apart: mean     max  <=0.06      ours ms DALI ms unproven   ratio")
    for name, view in VIEWS.items():
        print(f"{name:18s} {images(view, encoded, options.threads, options.device, options.repeats)}", flush=True)
    print("\naudio: largest difference from the reference")
    audio()


if __name__ == "__main__":
    main()
