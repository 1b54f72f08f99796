"""Log-mel of 30 s clips: ours against openai-whisper, transformers, torchaudio and librosa, as ratios in one run.

python -m benchmarks.log_mel [--repeats 15] [--threads 1]: speech-like clips, contenders take turns. With more than one
thread each contender runs both ways, torch's own threads over one clip and one clip a thread, and counts by its better.
The floor is a bare Fourier transform of the same windows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

CLIPS = 4
SAMPLES = 480_000
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    threadpool_limits(1, user_api="blas")  # its idle threads spin, at the expense of whoever comes next
    clips = [clip(seed) for seed in range(CLIPS)]
    for n_mels in (80, 128):
        calls = contenders(n_mels)
        reference = torch.as_tensor(calls["openai-whisper"](clips[0]))
        difference = float((calls["ours"](clips[0]) - reference).abs().max())
        cpu: dict[str, list[float]] = {name: [] for name in calls}
        wall: dict[str, list[float]] = {name: [] for name in calls}
        with ThreadPoolExecutor(options.threads) as pool:
            for _ in range(options.repeats):
                for name, call in calls.items():
                    ways = [lambda call=call: [call(wave) for wave in clips]]
                    if options.threads > 1:
                        ways.append(lambda call=call: list(pool.map(call, clips)))
                    best = []
                    for threads, way in zip((options.threads, 1), ways, strict=False):
                        torch.set_num_threads(threads)
                        begun, used = time.perf_counter(), time.process_time()
                        way()
                        best.append((time.perf_counter() - begun, time.process_time() - used))
                    wall[name].append(min(best)[0] / CLIPS)
                    cpu[name].append(min(spent for _, spent in best) / CLIPS)
        print(f"{n_mels} mels, {options.threads} thread(s), max |difference| to openai-whisper {difference:.1e}")
        for name in calls:
            ratios = [
                measure(spent["openai-whisper"]) / measure(spent[name])
                for spent in (cpu, wall)
                for measure in (np.median, np.min)
            ]
            print(
                f"  {name:26s} {1e3 * np.median(cpu[name]):7.2f} ms CPU a clip   of whisper: CPU {ratios[0]:5.2f}x "
                f"(least {ratios[1]:5.2f}x), wall {ratios[2]:5.2f}x (least {ratios[3]:5.2f}x)"
            )


if __name__ == "__main__":
    main()
