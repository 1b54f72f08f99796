"""Video views against the installed video processors on a real clip, tiny models, and properties over odd videos."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import data
from transformers import LlavaOnevisionConfig, LlavaOnevisionModel
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor
from transformers.models.llava_onevision.video_processing_llava_onevision import LlavaOnevisionVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor
from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor, get_resize_output_image_size
from transformers.video_utils import VideoMetadata

from mmdata.decode.video import decode_frames, read_facts
from mmdata.errors import DataError, SpecError
from mmdata.rng import generator
from mmdata.types import Media, Packets, Patchify, Resize
from mmdata.views._picture import HALF
from mmdata.views.frames import RULES
from mmdata.views.pixels import normalise_on_device
from mmdata.views.video import FrameVideo, PatchVideo, Video, second_per_grid_ts, timestamps

FPS = 8.0


def table(pts: list[int], base: int = 1000) -> Packets:
    flags = np.zeros(len(pts), np.uint8)
    flags[::4] = Packets.KEY
    return Packets(time_base=(1, base), pts=np.array(pts, np.int64), flags=flags)


@cache
def clip(frames: int) -> torch.Tensor:
    """A walk over a photograph, uint8 [frames, 3, 118, 203]."""
    photo = np.asarray(data.astronaut())
    cut = [photo[40 + 3 * at : 158 + 3 * at, 60 + 5 * at : 263 + 5 * at] for at in range(frames)]
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2).contiguous()


def theirs(processor, frames: int, **options):
    about = VideoMetadata(total_num_frames=frames, fps=FPS, duration=frames / FPS)
    return processor(
        videos=[clip(frames)],
        video_metadata=[about],
        do_sample_frames=True,
        return_metadata=True,
        return_tensors="pt",
        **options,
    )


def ours(view: Video, frames: int):
    facts = Media(kind="video", frames=frames, fps=FPS, seconds=frames / FPS, height=118, width=203)
    plan = view.plan(facts)
    made = view.realize(clip(frames)[list(plan.frames)], plan)
    assert tuple(made.shape) == plan.shape
    return plan, made


@pytest.mark.parametrize("frames", [5, 24, 31])
@pytest.mark.parametrize("fps", [2.0, 3.3])
def test_patches_are_those_of_qwen(frames: int, fps: float) -> None:
    small = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 30}
    plan, made = ours(PatchVideo(fps=fps, **small), frames)
    processor = Qwen2VLVideoProcessor(**small)
    batch = theirs(processor, frames, fps=fps)
    assert plan.frames == tuple(batch["video_metadata"][0].frames_indices.tolist())
    assert plan.grid == tuple(batch["video_grid_thw"][0].tolist())
    assert (made - batch["pixel_values_videos"]).abs().max() <= 1e-5

    size = {"shortest_edge": 4096, "longest_edge": 32 * 32 * 150}
    third = PatchVideo(
        rule="qwen3_vl",
        variant="qwen3_vl",
        patch=16,
        fps=fps,
        min_pixels=4096,
        max_pixels=32 * 32 * 150,
        mean=HALF,
        std=HALF,
    )
    plan, made = ours(third, frames)
    batch = theirs(Qwen3VLVideoProcessor(size=size), frames, fps=fps)
    assert plan.frames == tuple(batch["video_metadata"][0].frames_indices.tolist())
    assert plan.grid == tuple(batch["video_grid_thw"][0].tolist())
    assert (made - batch["pixel_values_videos"]).abs().max() <= 1e-5
    assert plan.tokens == Qwen3VLVideoProcessor(size=size).get_num_of_video_patches(len(plan.frames), 118, 203) // 4


def test_the_cap_is_that_of_the_processors() -> None:
    for number in (4, 16, 24):
        options = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 60, "max_video_tokens": 300}
        plan, made = ours(PatchVideo(num_frames=number, cap_pixels_per_frame=True, **options), 24)
        processor = Qwen2VLVideoProcessor(**options)
        batch = theirs(processor, 24, num_frames=number, cap_pixels_per_frame=True)
        assert plan.grid == tuple(batch["video_grid_thw"][0].tolist())
        assert (made - batch["pixel_values_videos"]).abs().max() <= 1e-5


def test_frames_are_those_of_llava_onevision_internvl_and_smolvlm() -> None:
    plan, made = ours(FrameVideo(num_frames=3), 10)
    batch = theirs(LlavaOnevisionVideoProcessor(), 10, num_frames=3)
    assert plan.frames == tuple(batch["video_metadata"][0].frames_indices.tolist())
    assert (made - batch["pixel_values_videos"][0]).abs().max() <= 1e-5
    assert plan.tokens == 3 * 196 + 1

    plan, made = ours(FrameVideo(rule="internvl", num_frames=3, size=448, extra=0), 10)
    batch = theirs(InternVLVideoProcessor(size={"height": 448, "width": 448}), 10, num_frames=3)
    assert plan.frames == tuple(batch["video_metadata"][0].frames_indices.tolist())
    assert (made - batch["pixel_values_videos"][0]).abs().max() <= 1e-5
    assert plan.tokens == 3 * 256

    view = FrameVideo(
        rule="smolvlm",
        num_frames=4,
        fps=1.0,
        size=128,
        patch=16,
        pool=2,
        extra=0,
        longest_edge=300,
        filter="lanczos",
        mean=HALF,
        std=HALF,
    )
    plan, made = ours(view, 24)
    processor = SmolVLMVideoProcessor(size={"longest_edge": 300}, max_image_size={"longest_edge": 128})
    batch = theirs(processor, 24, num_frames=4, fps=1.0)
    assert plan.frames == tuple(batch["video_metadata"][0].frames_indices.tolist())
    assert (made - batch["pixel_values"][0]).abs().max() <= 1e-5
    assert plan.tokens == len(plan.frames) * 16


def test_uint8_is_the_same_before_normalising() -> None:
    for view in (PatchVideo(num_frames=4, max_pixels=128 * 28 * 28), FrameVideo(num_frames=2, size=64)):
        plan, floats = ours(view, 8)
        _, levels = ours(replace(view, dtype="uint8"), 8)
        assert levels.dtype == torch.uint8
        patchify = next((op for op in plan.ops if isinstance(op, Patchify)), None)
        assert torch.equal(normalise_on_device(levels, view.mean, view.std, patchify=patchify), floats)


def test_smolvlms_first_size_is_theirs() -> None:
    rng = np.random.default_rng(0)
    view = FrameVideo(rule="smolvlm", size=28, longest_edge=364, filter="lanczos")
    for _ in range(2000):
        height, width = (int(10 ** rng.uniform(0, 3.3)) for _ in range(2))
        plan = view.plan(Media(kind="video", frames=9, fps=8.0, height=height, width=width))
        first = plan.ops[0]
        assert isinstance(first, Resize)
        # a stand-in for the picture that has its size and no pixels
        assert (first.height, first.width) == get_resize_output_image_size(
            torch.empty(1, device="meta").expand(height, width), 364
        )


def test_llava_onevisions_model_makes_the_planned_features() -> None:
    torch.manual_seed(0)
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 384,
        "patch_size": 14,
        "vision_use_head": False,
    }
    text = {
        "model_type": "qwen2",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 64,
    }
    model = LlavaOnevisionModel(LlavaOnevisionConfig(vision_config=vision, text_config=text)).eval()
    plan, made = ours(FrameVideo(num_frames=3), 7)
    with torch.no_grad():
        found = model.get_video_features(
            made[None], vision_feature_layer=-1, vision_feature_select_strategy="full"
        ).pooler_output
    assert found.reshape(-1, 16).shape[0] == plan.tokens


def test_true_times_of_a_variable_rate_and_a_late_start() -> None:
    pts = [500, 540, 900, 910, 2000, 2033]
    facts = Media(kind="video", frames=6, fps=4.0, seconds=1.5, height=56, width=56, packets=table(pts))
    plan = PatchVideo(num_frames=4).plan(facts)
    assert plan.frames == (0, 1, 3, 4)
    assert plan.times == (0.5, 0.54, 0.91, 2.0)
    assert timestamps(plan) == pytest.approx((0.04 / 2, (0.41 + 1.5) / 2))  # from the first frame on
    index = PatchVideo(num_frames=4, clock="index").plan(facts)
    assert index.times == (0.0, 0.25, 0.75, 1.0)
    assert second_per_grid_ts(plan, facts) == 2 / (4 / 6 * 4.0)
    shuffled = table([500, 910, 540, 900, 2000, 2033])  # B-frames: decoding order is not that of showing
    assert PatchVideo(num_frames=4).plan(
        Media(kind="video", frames=6, height=56, width=56, packets=shuffled)
    ).times == (plan.times)
    with pytest.raises(DataError, match="facts_mismatch"):
        PatchVideo(num_frames=4).plan(Media(kind="video", frames=7, height=56, width=56, packets=table(pts)))


def write_vfr(path: Path, pts: list[int]) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"g": "5", "bf": "2", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for at, when in enumerate(pts):
            picture = np.full((64, 96, 3), 8 * at, np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = when, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_a_variable_rate_file_gives_the_planned_frames_at_the_planned_times(tmp_path: Path, suffix: str) -> None:
    pts = [0, 40, 80, 400, 440, 1000, 1040, 1080, 3000, 3040, 3500]
    facts = read_facts(write_vfr(tmp_path / f"vfr.{suffix}", pts))
    assert facts.frames == 11
    view = PatchVideo(num_frames=4, min_pixels=784, max_pixels=28 * 28 * 8)
    plan = view.plan(facts)
    assert plan.frames == (0, 2, 5, 8)
    assert plan.times == pytest.approx([pts[at] / 1000 for at in plan.frames])
    frames = decode_frames(tmp_path / f"vfr.{suffix}", plan.frames)
    assert frames.seconds.tolist() == list(plan.times)
    assert [round(float(one.float().mean()) / 8) for one in frames.pixels] == list(plan.frames)
    assert tuple(view.realize(frames.pixels, plan).shape) == plan.shape
    keys = FrameVideo(rule="keyframe", size=28, extra=0).plan(facts).frames
    assert keys == (0, 5, 10)


VIEWS = st.sampled_from(
    [
        *(PatchVideo(num_frames=n, min_pixels=784, max_pixels=784 * 6) for n in (1, 2, 5, 8)),
        PatchVideo(fps=2, min_pixels=784, max_pixels=784 * 6),
        PatchVideo(rule="qwen_vl_utils", min_pixels=784, max_pixels=784 * 6),
        PatchVideo(rule="qwen3_vl", variant="qwen3_vl", patch=16, max_pixels=65536),
        PatchVideo(rule="qwen3_vl", variant="qwen3_vl", patch=16, num_frames=3, max_pixels=65536),
        FrameVideo(num_frames=7, size=28),
        FrameVideo(fps=200.0, size=28),
        FrameVideo(fps=0.01, size=28, rule="internvl"),
        FrameVideo(rule="smolvlm", num_frames=4, size=28, longest_edge=56, filter="lanczos"),
        *(FrameVideo(rule=rule, num_frames=5, size=28) for rule in sorted(RULES) if rule != "hierarchical"),
        FrameVideo(rule="hierarchical", options=(("clip_len", 3), ("stride", 2), ("num_clips", 2)), size=28),
        FrameVideo(rule="tsn", num_frames=3, options=(("mode", "train"),), jittered=2, size=28),
    ]
)


@settings(max_examples=120, deadline=None)
@given(VIEWS, st.integers(1, 33), st.integers(1, 90), st.integers(1, 90), st.integers(0, 99))
def test_what_is_planned_is_made(view: Video, total: int, height: int, width: int, key: int) -> None:
    pts = np.cumsum(generator("pts", key).integers(1, 400, size=total)).tolist()
    marks = {"motion": tuple(range(0, total, 3)), "scenes": tuple(range(4, total, 5))}
    seconds = (pts[-1] + 40) / 1000
    facts = Media(
        kind="video",
        frames=total,
        fps=total / seconds,
        seconds=seconds,
        height=height,
        width=width,
        packets=table(pts),
        marks=marks,
    )
    plan = view.plan(facts, rng=generator("draw", key))
    assert plan == view.plan(facts, rng=generator("draw", key))
    assert plan.kind == "video"
    assert plan.frames
    assert all(0 <= index < total for index in plan.frames)
    assert plan.times == tuple(pts[index] / 1000 for index in plan.frames)
    made = view.realize(torch.zeros(len(plan.frames), 3, height, width, dtype=torch.uint8), plan)
    assert tuple(made.shape) == plan.shape
    assert made.dtype == torch.float32
    assert plan.grid is not None
    if isinstance(view, PatchVideo):
        assert plan.grid[0] == -(-len(plan.frames) // 2)
        assert plan.tokens * 4 == plan.shape[0] == int(np.prod(plan.grid))
        assert len(timestamps(plan)) == plan.grid[0]
    else:
        assert plan.shape[0] == plan.grid[0] == len(plan.frames)


def test_one_frame_is_that_frame() -> None:
    facts = Media(kind="video", frames=1, fps=25.0, seconds=0.04, height=64, width=64)
    assert PatchVideo(num_frames=8).plan(facts).frames == (0,)
    assert PatchVideo(fps=2).plan(facts).grid == (1, 24, 24)
    third = PatchVideo(rule="qwen3_vl", variant="qwen3_vl", patch=16).plan(facts)
    assert third.frames == third.times == (0, 0)
    assert FrameVideo(num_frames=8).plan(facts).tokens == 197


def test_a_number_above_the_frames_is_clamped() -> None:
    for rule, frames in {"uniform": 5, "internvl": 5, "qwen2_vl": 4, "qwen_vl_utils": 4, "scenes": 5}.items():
        facts = Media(kind="video", frames=5, fps=25.0, height=64, width=64, marks={"scenes": (2,)})
        assert len(FrameVideo(rule=rule, num_frames=32).plan(facts).frames) == frames


def test_marks_are_what_scenes_and_motion_go_by() -> None:
    facts = Media(
        kind="video",
        frames=100,
        fps=1.0,
        seconds=100.0,
        height=64,
        width=64,
        marks={"motion": (7, 50, 90), "scenes": (10,), "keys": (0, 10, 20, 30)},
    )
    assert FrameVideo(rule="motion", num_frames=2).plan(facts).frames == (7, 50)
    assert FrameVideo(rule="adaptive", num_frames=3).plan(facts).frames == (7, 50, 90)
    assert FrameVideo(rule="scenes", num_frames=2).plan(facts).frames == (4, 54)
    assert FrameVideo(rule="keyframe", marks="keys", num_frames=2).plan(facts).frames == (0, 20)
    for rule in ("motion", "scenes"):
        with pytest.raises(DataError, match="no_facts"):
            FrameVideo(rule=rule, num_frames=2).plan(Media(kind="video", frames=100, fps=1.0, height=64, width=64))


def test_what_is_missing_or_wrong_is_named() -> None:
    sized = {"height": 64, "width": 64}
    for view, facts in [
        (FrameVideo(num_frames=2), Media(kind="video", **sized)),
        (FrameVideo(num_frames=2), Media(kind="video", frames=3)),
        (FrameVideo(fps=2.0), Media(kind="video", frames=3, **sized)),
        (FrameVideo(rule="smolvlm"), Media(kind="video", frames=3, **sized)),
        (FrameVideo(rule="adaptive", num_frames=2), Media(kind="video", frames=3, **sized)),
        (FrameVideo(rule="keyframe"), Media(kind="video", frames=3, **sized)),
    ]:
        with pytest.raises(DataError, match="no_facts"):
            view.plan(facts)
    with pytest.raises(DataError, match="aspect_extreme"):
        PatchVideo(num_frames=2).plan(Media(kind="video", frames=3, height=1, width=4000))
    for wrong in (
        {"rule": "unifrom"},
        {"num_frames": 2, "fps": 1.0},
        {"num_frames": 0},
        {"rule": "uniform", "max_frames": 4},
        {"rule": "tsn", "options": (("mod", "train"),)},
        {"size": 4},
    ):
        with pytest.raises(SpecError):
            FrameVideo(**wrong)
    with pytest.raises(SpecError):
        PatchVideo(patch=0)


@pytest.mark.parametrize(
    "view",
    [
        FrameVideo(rule="dense", num_frames=2, options=(("start", 10),)),
        FrameVideo(rule="internvl", num_frames=2, options=(("initial_shift", 7),)),
    ],
)
def test_a_video_that_ends_before_the_first_wanted_frame_is_left_out(view: FrameVideo) -> None:
    """It is the video that is short; the run goes on."""
    facts = Media(kind="video", frames=20, fps=5.0, seconds=4.0, height=64, width=64)
    assert len(view.plan(facts).frames) == 2
    with pytest.raises(DataError, match="too_few_frames"):
        view.plan(replace(facts, frames=5, seconds=1.0))


def test_without_chance_segments_give_their_middles() -> None:
    """As a step that materialises plans, or a report."""
    facts = Media(kind="video", frames=20, fps=5.0, seconds=4.0, height=64, width=64)
    train = FrameVideo(rule="tsn", num_frames=4, options=(("mode", "train"),))
    assert train.plan(facts).frames == FrameVideo(rule="tsn", num_frames=4).plan(facts).frames == (2, 7, 12, 17)
    assert {train.plan(facts, rng=generator(seed)).frames for seed in range(9)} != {(2, 7, 12, 17)}
