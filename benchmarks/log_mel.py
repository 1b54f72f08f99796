"""Log-mel of 30 s clips: ours against openai-whisper, transformers, torchaudio and librosa, as ratios in one run.

`python -m benchmarks.log_mel [--rounds 15] [--threads 1 2]`: speech-like clips, contenders take turns. With more than
one thread each contender takes one clip a thread, and claims are of wall time; else they are of CPU time. The floor is
a bare Fourier transform of the same windows.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from benchmarks import _options
from benchmarks._interleaved import table, turns
from benchmarks.claims import Claim, beside, figure, installed, write

CLIPS = 4
SAMPLES = 480_000
PEER = "openai-whisper"
Contender = Callable[[np.ndarray], Any]


def clip(seed: int) -> np.ndarray:
    """A gliding voice with harmonics, pauses and noise: float32 [480,000]."""
    random = np.random.default_rng(seed)
    seconds = np.arange(SAMPLES) / 16_000
    pitch = 2 * np.pi * (120 + 3 * seconds) * seconds
    voice = sum(np.sin(k * pitch) / k for k in range(1, 12))
    return (0.1 * voice * np.maximum(0, np.sin(2 * seconds)) + 0.01 * random.standard_normal(SAMPLES)).astype(
        np.float32
    )


def contenders(n_mels: int) -> dict[str, Contender]:
    import librosa
    import torchaudio
    import whisper
    from transformers import WhisperFeatureExtractor

    from mmdata.views.mel import log_mel_spectrogram

    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    power = torchaudio.transforms.MelSpectrogram(
        16_000, n_fft=400, hop_length=160, n_mels=n_mels, norm="slaney", mel_scale="slaney"
    )
    window = torch.hann_window(400)

    def torchaudio_mel(wave: np.ndarray) -> torch.Tensor:
        logarithm = power(torch.from_numpy(wave))[:, :-1].clamp(min=1e-10).log10()
        return (torch.maximum(logarithm, logarithm.max() - 8) + 4) / 4

    def librosa_mel(wave: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=wave, sr=16_000, n_fft=400, hop_length=160, n_mels=n_mels, pad_mode="reflect"
        )
        logarithm = np.log10(np.maximum(mel[:, :-1], 1e-10))
        return (np.maximum(logarithm, logarithm.max() - 8) + 4) / 4

    def floor(wave: np.ndarray) -> torch.Tensor:
        sound = torch.from_numpy(wave)
        return torch.fft.rfft(sound.as_strided((2_998, 400), (160, 1)) * window)

    return {
        "openai-whisper": lambda wave: whisper.log_mel_spectrogram(wave, n_mels),
        "transformers, one by one": lambda wave: extractor(wave, sampling_rate=16_000)["input_features"][0],
        "torchaudio": torchaudio_mel,
        "librosa": librosa_mel,
        "ours": lambda wave: log_mel_spectrogram(wave, n_mels),
        "ours, 10 of 30 s heard": lambda wave: log_mel_spectrogram(wave[:160_000], n_mels, "max_length"),
        "floor: windows and FFT": floor,
    }


def main() -> None:
    parser = _options.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = _options.parse(parser, rounds=7)
    threadpool_limits(1, user_api="blas")  # its idle threads spin, at the expense of whoever comes next
    torch.set_num_threads(1)
    clips = [clip(seed) for seed in range(CLIPS)]
    claims: list[Claim] = []
    figures = {}
    for n_mels in (80, 128):
        calls = contenders(n_mels)
        reference = torch.as_tensor(calls[PEER](clips[0]))
        difference = float((calls["ours"](clips[0]) - reference).abs().max())
        what = f"log-mel of 30 s, {n_mels} bands"
        claims.append(
            figure(f"{what}, largest difference", "ours", [difference], "", goal=1e-5, at_most=True, beside=PEER)
        )
        for threads in arguments.threads:
            with ThreadPoolExecutor(threads) as pool:
                run = pool.map if threads > 1 else map
                ways = {name: lambda call=call, run=run: list(run(call, clips)) for name, call in calls.items()}  # type: ignore[misc]
                found = turns(ways, arguments.rounds, each=CLIPS)
            figures[f"{n_mels}, {threads} threads"] = found
            print(f"{what}, {threads} thread(s), milliseconds a clip")
            table(found, scale={"seconds": 1e3, "cpu": 1e3})
            told = what if threads == 1 else f"{what}, {threads} threads, wall time"
            by = "cpu" if threads == 1 else "seconds"
            head = n_mels == 80 and threads == 1
            claims.append(beside(told, found, "ours", PEER, by=by, goal=1.3, headline=head))
            claims += [
                beside(told, found, "ours", other, by=by)
                for other in ("transformers, one by one", "torchaudio", "librosa")
            ]
            claims.append(beside(told, found, "ours", "floor: windows and FFT", by=by, floor=True))
    peers = installed("openai-whisper", "transformers", "torchaudio", "librosa")
    threads = max(arguments.threads)
    write("log_mel", claims, figures=figures, peers=peers, threads=threads, to=arguments.json)


if __name__ == "__main__":
    main()
