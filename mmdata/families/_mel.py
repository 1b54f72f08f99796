"""What the audio families share: `input_features` of log-mel frames and the mask of those that hold sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmdata.errors import SpecError
from mmdata.families._settings import Checkpoint, Settings
from mmdata.ops import Spectrogram
from mmdata.types import Join, LogMel, MediaPlan, Wave
from mmdata.views.mel import HOP_LENGTH, N_FFT, SAMPLE_RATE, Mel, num_frames

KEY = "input_features"


def mask(plan: MediaPlan) -> dict[str, np.ndarray]:
    """`feature_attention_mask` int32 [pieces, frames]: 1 where a frame holds sound."""
    held = [num_frames(op.stop - op.start, padded=op.padded) for op in plan.ops if isinstance(op, LogMel)]
    return {"feature_attention_mask": (np.arange(plan.shape[-1]) < np.array(held)[:, None]).astype(np.int32)}


def view_of(settings: Settings, **defaults: Any) -> Mel:
    """The view of a Hugging Face model, whose encoder takes `padded` samples of sound whatever a clip has. Raises
    SpecError for parameters of which it would get something else."""
    view = settings.view("audio", Mel, read, **defaults)
    wrong = {
        "tokens": view.tokens != defaults["tokens"],
        "padded": view.padded is None,
        "trim": view.trim,
        "pool": view.pool is not None,
        "prosody": view.prosody,
    }
    for name in (name for name, is_wrong in wrong.items() if is_wrong):
        raise SpecError(f"audio: {name}: {getattr(view, name)!r}; the model takes the bins of padded clips as they are")
    return view


def join(view: Mel) -> Join:
    """How the clips of a batch stand beside each other: each is one, or as many as it has pieces."""
    return "concat" if view.chunk else "stack"


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
