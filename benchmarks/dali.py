"""DALI against our CPU path: how far apart the pixels are, and what each costs; and how far DALI's audio is.

`python -m benchmarks.dali [--count 8] [--rounds 5] [--threads 1] [--device cpu]`: photographs of 0.2 to 4 megapixels as
JPEG, known to be whole, from bytes to a view's array. Distances are in normalised units, the worst picture's. Times are
wall milliseconds per picture, of rounds in which both take their turn. On the CPU, DALI is here to be compared and to
run where a GPU is not; its place is `--device gpu`.
Audio: distance of the log-mel, of resampling to 16 kHz and of decoding from the references that `views.mel` and
`decode.audio` equal, all of which must be within 1e-5 for DALI to be offered; it is not.
"""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks._photos import write as write_photos
from benchmarks.claims import Claim, beside, figure, installed, write
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


def images(
    name: str, view: Any, encoded: Sequence[bytes], threads: int, device: Device, rounds: int
) -> tuple[list[Claim], dict[str, Any]]:
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
    calls = {"our CPU path": ours, f"DALI on the {device}": lambda: through(True)}
    calls["DALI, bytes unproven"] = lambda: through(False)
    found = turns(calls, rounds, each=len(encoded))
    print(f"{name}: apart by {mean:.5f} on average, {largest:.3f} at most, {within:.4%} within 0.06; milliseconds")
    table(found, scale={"seconds": 1e3, "cpu": 1e3})
    what = f"JPEG to {name}'s array, {device}"
    claims = [
        beside(f"{what}, wall time", found, "our CPU path", f"DALI on the {device}", by="seconds"),
        figure(f"{what}, mean difference", f"DALI on the {device}", [mean], "", beside="our CPU path"),
    ]
    return claims, {"rounds": found, "mean": mean, "largest": largest, "within": within}


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
    parser = _options.parser(__doc__)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    arguments = _options.parse(parser, count=4)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), arguments.count)
        encoded = [path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.suffix == ".jpg"]
    print(f"{len(encoded)} photographs, {arguments.threads} threads, DALI on the {arguments.device}")
    claims: list[Claim] = []
    figures = {}
    for name, view in VIEWS.items():
        more, figures[name] = images(name, view, encoded, arguments.threads, arguments.device, arguments.rounds)
        claims += more
    print("\naudio: largest difference from the reference")
    audio()
    peers = installed("nvidia-dali-cuda130")
    write("dali", claims, figures=figures, peers=peers, threads=arguments.threads, to=arguments.json)


if __name__ == "__main__":
    main()
