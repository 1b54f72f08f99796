"""What the audio families share: `input_features` of log-mel frames and the mask of those that hold sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.errors import SpecError
from mmdata.families._settings import Checkpoint
from mmdata.ops import Spectrogram
from mmdata.types import LogMel, MediaPlan, Wave
from mmdata.views.mel import HOP_LENGTH, N_FFT, SAMPLE_RATE, num_frames

KEY = "input_features"


def mask(plan: MediaPlan) -> dict[str, np.ndarray]:
    """`feature_attention_mask` int32 [1, frames]: 1 where a frame holds sound."""
    return {"feature_attention_mask": (np.arange(plan.shape[-1]) < heard(plan)).astype(np.int32)[None]}


def heard(plan: MediaPlan) -> int:
    """Frames of a clip in one piece that hold sound; of a waveform, samples; of spectrograms of one size, positions."""
    if isinstance(plan.ops[0], Spectrogram):
        return sum(op.positions for op in plan.ops if isinstance(op, Spectrogram))
    (op,) = plan.ops
    if isinstance(op, Wave):
        return op.keep
    assert isinstance(op, LogMel), plan
    return num_frames(op.stop - op.start, padded=op.padded)


def read(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """Parameters of `Mel`. Raises SpecError for a spectrogram that is not Whisper's."""
    found = checkpoint.media["audio"]
    for name, usual in (("sampling_rate", SAMPLE_RATE), ("n_fft", N_FFT), ("hop_length", HOP_LENGTH), ("dither", 0.0)):
        if found.get(name) not in (None, usual):
            raise SpecError(f"{name}: {found[name]!r}; the view has {usual}, as Whisper was trained")
    seconds = found.get("chunk_length")  # Of `n_samples`, which is written beside it, the extractor takes no notice.
    return {
        "n_mels": found.get("feature_size"),
        "padded": found.get("n_samples") if seconds is None else seconds * SAMPLE_RATE,
    }
