"""Scene cuts and their scores against PySceneDetect."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from scenedetect import (
    AdaptiveDetector,
    ContentDetector,
    FrameTimecode,
    SceneManager,
    StatsManager,
    open_video,
)
from scenedetect.detector import FlashFilter

from mmdata.decode.video import iter_frames
from mmdata.errors import SpecError
from mmdata.views import motion, scenes
from tests.views.films import shots


def their_filter(above: list[bool], length: float, mode: FlashFilter.Mode, rate: float) -> tuple[int, ...]:
    flash = FlashFilter(mode=mode, length=length)
    cuts = [cut for at, one in enumerate(above) for cut in flash.filter(FrameTimecode(at, rate), one)]
    return tuple(cut.frame_num for cut in cuts)


def test_flash_filter_is_theirs() -> None:
    rng = np.random.default_rng(1)
    some = 0
    for _ in range(250):
        above = (rng.random(int(rng.integers(1, 160))) < rng.choice([0.02, 0.1, 0.3, 0.8])).tolist()
        above[0] = False  # the first frame scores 0
        length = int(rng.choice([0, 1, 2, 5, 15, 40]))
        for ours, theirs in (("merge", FlashFilter.Mode.MERGE), ("suppress", FlashFilter.Mode.SUPPRESS)):
            expected = their_filter(above, length, theirs, 25.0)
            some += len(expected)
            assert scenes.flash_filter(above, min_scene=length, mode=ours) == tuple(sorted(set(expected))), above
            times = [at / 32 for at in range(len(above))]
            if length:
                expected = their_filter(above, length / 32, theirs, 32.0)
                assert scenes.flash_filter(above, min_scene=length / 32, mode=ours, times=times) == expected
    assert some > 200


def test_flash_filter_of_the_known_example() -> None:
    above = [at in (37, 80, 81, 121) for at in range(200)]
    assert scenes.flash_filter(above, min_scene=60) == their_filter(above, 60, FlashFilter.Mode.MERGE, 25.0)
    assert scenes.flash_filter(above, min_scene=60, mode="suppress") == (80,)
    with pytest.raises(SpecError, match="no mode 'drop'"):
        scenes.flash_filter(above, mode="drop")  # type: ignore[arg-type]


def test_adaptive_cuts_are_theirs_on_grey_frames_of_any_scores() -> None:
    """Grey frames score a third of their difference, so that walks of grey are any sequence of scores."""
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(80):
        steps = rng.choice([0, 1, 2, 30, 60, 120, 250], size=80, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05])
        levels = [0]
        for step in steps.tolist():
            levels.append(levels[-1] + step if levels[-1] + step <= 255 else max(0, levels[-1] - step))
        grey = [np.full((2, 2, 3), level, np.uint8) for level in levels]
        options = {"window_width": int(rng.integers(1, 4)), "min_scene_len": int(rng.choice([0, 1, 5, 15]))}
        detector = AdaptiveDetector(**options)
        theirs = [
            cut.frame_num
            for at, frame in enumerate(grey)
            for cut in detector.process_frame(FrameTimecode(at, 25.0), frame)
        ]
        ours = scenes.adaptive_cuts(
            scenes.content_scores(grey), window=options["window_width"], min_scene=options["min_scene_len"]
        )
        assert ours == tuple(theirs)
        found += len(ours)
    assert found > 30


def write(path: Path, frames: Iterator[np.ndarray], height: int, width: int) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    return path


def decoded(path: Path) -> Iterator[np.ndarray]:
    for _, piece in iter_frames(path, chunk=16):
        yield from piece.pixels.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(("height", "width"), [(208, 320), (144, 176)])
def test_scores_and_cuts_of_files_are_theirs(tmp_path: Path, height: int, width: int) -> None:
    path = write(tmp_path / "shots.mp4", shots(height, width, seed=height), height, width)
    scores = list(scenes.content_scores(decoded(path)))
    for detector, ours in (
        (ContentDetector(), scenes.content_cuts(scores)),
        (ContentDetector(filter_mode=FlashFilter.Mode.SUPPRESS), scenes.content_cuts(scores, mode="suppress")),
        (ContentDetector(threshold=8.0, min_scene_len=3), scenes.content_cuts(scores, threshold=8.0, min_scene=3)),
        (AdaptiveDetector(), scenes.adaptive_cuts(scores)),
        (AdaptiveDetector(min_scene_len=3), scenes.adaptive_cuts(scores, min_scene=3)),
    ):
        stats = StatsManager()
        manager = SceneManager(stats)
        manager.add_detector(detector)
        video = open_video(str(path))
        manager.detect_scenes(video)
        theirs = [scene[0].frame_num for scene in manager.get_scene_list()][1:]
        assert list(ours) == theirs
        assert ours, "no cut at all shows nothing"
        values = [stats.get_metrics(FrameTimecode(at, 25.0), ["content_val"])[0] for at in range(1, len(scores))]
        assert np.abs(np.array(values) - scores[1:]).max() < 1e-4


def test_weights_are_theirs() -> None:
    rng = np.random.default_rng(4)
    frames = [rng.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(6)]
    detector = ContentDetector(weights=ContentDetector.Components(1.0, -0.5, 2.0, 0.0))
    theirs = [
        detector._calculate_frame_score(FrameTimecode(at, 25.0), frame[..., ::-1].copy())
        for at, frame in enumerate(frames)
    ]
    assert list(scenes.content_scores(frames, weights=(1.0, -0.5, 2.0))) == pytest.approx(theirs, abs=1e-9)


def test_detectors_hold_one_frame(tmp_path: Path) -> None:
    def stream(number: int) -> Iterator[np.ndarray]:
        for at in range(number):
            yield np.full((240, 320, 3), at % 256, np.uint8)

    def peak(number: int) -> int:
        tracemalloc.start()
        scenes.content_cuts(scenes.content_scores(stream(number)))
        motion.key_frames(stream(number))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(24) < peak(4) + 200_000
