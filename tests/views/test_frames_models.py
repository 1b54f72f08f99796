"""Frame indices against the sampling of the installed Hugging Face video processors, and their defects shown."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor
from transformers.video_utils import VideoMetadata, default_sample_indices_fn

from mmdata.errors import DataError
from mmdata.types import Media
from mmdata.views import frames
from mmdata.views.video import PatchVideo, second_per_grid_ts, timestamps

RATES = (5.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 30000 / 1001, 50.0, 60.0, 119.88)


def metadata(total: int, fps: float | None = None) -> VideoMetadata:
    return VideoMetadata(total_num_frames=total, fps=fps, duration=total / fps if fps else None)


def outcome(function, *args, **kwargs):
    """The indices, or None where the function refuses."""
    try:
        return tuple(int(index) for index in function(*args, **kwargs))
    except (ValueError, ZeroDivisionError):
        return None


@pytest.fixture(scope="module")
def sizes() -> list[tuple[int, int]]:
    """(total, n) pairs: all small ones and random large ones."""
    rng = np.random.default_rng(0)
    small = [(total, n) for total in range(1, 41) for n in range(1, 44)]
    large = [(int(rng.integers(1, 16_000)), int(rng.integers(1, 800))) for _ in range(1500)]
    return small + large


@pytest.fixture(scope="module")
def rates() -> list[tuple[int, float, float]]:
    """(total, rate of the video, rate wanted)."""
    rng = np.random.default_rng(1)
    return [
        (int(10 ** rng.uniform(0, 4.2)), RATES[int(rng.integers(len(RATES)))], (0.25, 0.5, 1, 2, 3.3, 8)[at % 6])
        for at in range(2500)
    ]


def test_uniform_is_the_default_sampling(sizes, rates) -> None:
    for total, n in sizes:
        ours = outcome(frames.sample, "uniform", total=total, num_frames=n)
        assert ours == outcome(default_sample_indices_fn, metadata(total), num_frames=n), (total, n)
    for total, rate, fps in rates:
        ours = outcome(frames.sample, "fps", total=total, video_fps=rate, fps=fps)
        assert ours == outcome(default_sample_indices_fn, metadata(total, rate), fps=fps), (total, rate, fps)


def test_qwen2_vl(sizes, rates) -> None:
    processor = Qwen2VLVideoProcessor()
    defects = 0

    def check(ours, theirs, total: int) -> None:
        nonlocal defects
        if theirs is not None and theirs[-1] == total:  # their float steps ran past the end
            theirs, defects = theirs[:-1], defects + 1
        assert ours == theirs, total

    for total, n in sizes:
        theirs = outcome(processor.sample_frames, metadata(total), num_frames=n)
        check(outcome(frames.qwen2_vl, total, n), theirs, total)
    for total, rate, fps in rates:
        theirs = outcome(processor.sample_frames, metadata(total, rate), fps=fps)
        check(outcome(frames.qwen2_vl, total, fps=fps, video_fps=rate), theirs, total)
    assert defects > 20


def test_the_defect_of_qwen2_vl_is_not_repeated() -> None:
    theirs = Qwen2VLVideoProcessor().sample_frames(metadata(17), num_frames=14).tolist()
    assert theirs[-1] == 17
    assert frames.sample("qwen2_vl", total=17, num_frames=14) == tuple(theirs[:-1])
    theirs = Qwen2VLVideoProcessor().sample_frames(metadata(764, 25.0), fps=2).tolist()
    assert max(theirs) == 764
    assert max(frames.qwen2_vl(764, fps=2, video_fps=25.0)) == 763 - 764 // len(theirs)


def test_qwen3_vl(sizes, rates) -> None:
    processor = Qwen3VLVideoProcessor()
    for total, n in sizes:
        theirs = outcome(processor.sample_frames, metadata(total), num_frames=n)
        assert outcome(frames.qwen3_vl, total, n) == theirs, (total, n)
    for total, rate, fps in rates:
        theirs = outcome(processor.sample_frames, metadata(total, rate), fps=fps)
        assert outcome(frames.qwen3_vl, total, fps=fps, video_fps=rate) == theirs, (total, rate, fps)
    theirs = tuple(processor.sample_frames(metadata(100, 25.0)).tolist())
    assert frames.qwen3_vl(100, video_fps=25.0) == theirs


def test_internvl(sizes, rates) -> None:
    processor = InternVLVideoProcessor()
    for total, n in sizes:
        if total * n >= 1 << 21:
            continue
        theirs = outcome(processor.sample_frames, metadata(total), num_frames=n)
        assert outcome(frames.internvl, total, n) == theirs, (total, n)
    for total, rate, fps in rates:
        if total * total / rate * fps >= 1 << 21:
            continue
        theirs = outcome(processor.sample_frames, metadata(total, rate), fps=fps)
        assert outcome(frames.internvl, total, fps=fps, video_fps=rate) == theirs, (total, rate, fps)
    for total, n in sizes[::7]:
        for shift in (0.25, 1, 2.0):
            if n <= total and shift < total and n * total < 1 << 21:
                theirs = processor.sample_frames(metadata(total), num_frames=n, initial_shift=shift).tolist()
                # Their count of steps is rounded; an index past the end is the same defect as qwen2_vl's.
                expected = tuple(index for index in theirs if index < total)
                assert frames.internvl(total, n, initial_shift=shift) == expected, (total, n, shift)


def test_internvl_steps_are_exact_where_float32_is_not() -> None:
    processor, differs = InternVLVideoProcessor(), 0
    for total in range(8_192, 200_000, 4_801):
        for n in (8, 100, 333, 752, 4_000):
            ours = frames.internvl(total, n)
            assert ours == tuple(int(total / n / 2 + i * total / n) for i in range(n))
            theirs = processor.sample_frames(metadata(total), num_frames=n).tolist()
            differs += list(ours) != theirs
            assert max(abs(a - b) for a, b in zip(theirs, ours, strict=True)) <= 1
    assert differs > 10


def test_smolvlm(rates) -> None:
    processor = SmolVLMVideoProcessor()
    for at, (total, rate, fps) in enumerate(rates):
        n = (1, 4, 8, 64)[at % 4]
        skip = (0, 1, 2)[at % 3]
        theirs = processor.sample_frames(metadata(total, rate), num_frames=n, fps=fps, skip_secs=skip)
        ours = frames.smolvlm(total, n, fps=fps, video_fps=rate, skip_seconds=skip)
        assert ours == tuple(theirs.tolist()), (total, rate, fps, n)


def test_qwen_vl_utils_is_float32_linspace(rates) -> None:
    """The published rule, written out: `smart_nframes` and `torch.linspace(0, total - 1, n).round()`."""
    for total, rate, fps in [*rates, *((total, 30.0, 2) for total in range(30_000, 60_000, 997))]:
        most = min(768, total) // 2 * 2
        n = int(min(max(total / rate * fps, 4), most, total) // 2 * 2)
        ours = outcome(frames.qwen_vl_utils, total, fps=fps, video_fps=rate)
        if n < 2:
            assert ours is None
            continue
        assert ours == tuple(torch.linspace(0, total - 1, n).round().long().tolist()), (total, rate, fps)


def test_what_the_references_refuse_is_refused() -> None:
    for kind in ("uniform", "qwen2_vl", "internvl", "motion", "scenes", "qwen_vl_utils"):
        more = {"motion": {"scores": [1.0] * 7, "times": range(7)}, "scenes": {"cuts": ()}}.get(kind, {})
        with pytest.raises(ValueError, match="too_few_frames"):
            frames.sample(kind, total=7, num_frames=8, **more)
    for kind in frames.RULES:
        needs = {"motion": {"scores": [], "times": []}, "scenes": {"cuts": ()}, "adaptive": {"duration": 1.0}}
        more = {**needs.get(kind, {}), **({"keys": (0,)} if kind == "keyframe" else {})}
        more |= {"clip_len": 2, "stride": 1} if kind == "hierarchical" else {"num_frames": 1}
        more |= {"video_fps": 25.0} if kind == "smolvlm" else {}
        with pytest.raises(DataError, match="too_few_frames"):
            frames.sample(kind, total=0, **more)


def test_timestamps_and_seconds_per_grid_are_those_of_the_processors() -> None:
    rng = np.random.default_rng(3)
    processor = Qwen3VLVideoProcessor()
    view = PatchVideo(rule="qwen3_vl", variant="qwen3_vl", patch=16, fps=2, clock="index")
    for _ in range(300):
        total, rate = int(rng.integers(2, 5000)), RATES[int(rng.integers(len(RATES)))]
        facts = Media(kind="video", frames=total, fps=rate, height=64, width=64)
        plan = view.plan(facts)
        about = metadata(total, rate)
        about.frames_indices = processor.sample_frames(about, fps=2)
        assert plan.frames == tuple(about.frames_indices.tolist())
        theirs = Qwen3VLProcessor._calculate_timestamps(None, about.frames_indices, rate, 2)
        assert timestamps(plan) == tuple(theirs)
        assert second_per_grid_ts(plan, facts) == 2 / about.sampled_fps
