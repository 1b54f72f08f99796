"""Scene cuts and their scores against PySceneDetect, pixels against OpenCV, motion against known motion."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
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
from mmdata.views import hsv, motion, scenes


def test_hsv_is_opencvs_for_every_colour() -> None:
    green, blue = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8), indexing="ij")
    for red in range(256):
        rgb = np.stack([np.full_like(green, red), green, blue], axis=-1)
        theirs = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        assert np.array_equal(np.moveaxis(hsv.hsv(rgb), 0, -1), theirs), red


def test_reduction_is_opencvs() -> None:
    rng = np.random.default_rng(0)
    sizes = [(360, 640), (512, 512), (300, 512), (271, 300), (256, 256), (255, 200), (1, 700), (700, 1), (1080, 1920)]
    sizes += [tuple(rng.integers(1, 900, 2).tolist()) for _ in range(40)]
    for height, width in sizes:
        frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        factor = max(height, width) / 256
        if factor < 1:
            assert hsv.reduce(frame) is frame
            continue
        size = (max(1, round(width / factor)), max(1, round(height / factor)))
        assert np.array_equal(hsv.reduce(frame), cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)), size


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


def shots(height: int, width: int, seed: int) -> Iterator[np.ndarray]:
    """Scenes of moving texture in changing colours, of many lengths, with a flash and a slow pan."""
    rng = np.random.default_rng(seed)
    for length in (21, 4, 30, 17, 2, 9, 20):
        texture = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (width + 80, height), None)
        texture = (texture * rng.uniform(0.2, 1.0, 3)).astype(np.uint8)
        speed = int(rng.integers(0, 3))
        for at in range(length):
            frame = texture[:, at * speed % 80 : at * speed % 80 + width].copy()
            if length == 30 and at == 15:
                frame[:] = 255
            yield frame


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


def texture(height: int, width: int) -> np.ndarray:
    rough = np.random.default_rng(5).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return np.kron(rough, np.ones((4, 4, 1), np.uint8))


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (0, 3), (2, 0), (-4, 3), (6, -6)])
def test_flow_is_the_motion_in_pixels(dy: int, dx: int) -> None:
    still = texture(120, 160)
    first, second = motion.changes([still, np.roll(still, (dy, dx), (0, 1))])
    assert first == motion.Change(0.0, 0.0)
    assert second.flow == pytest.approx(np.hypot(dy, dx), abs=0.6)  # blocks at the border lose what comes in
    assert second.histogram < 0.01
    large = np.kron(still, np.ones((4, 4, 1), np.uint8))
    _, scaled = motion.changes([large, np.roll(large, (4 * dy, 4 * dx), (0, 1))])
    assert scaled.flow == pytest.approx(4 * np.hypot(dy, dx), abs=2.4)


def test_noise_stands_still_and_the_histogram_term_lies_in_0_to_1_at_every_size() -> None:
    rng = np.random.default_rng(6)
    noisy = [np.clip(128 + rng.normal(0, 2, (96, 128, 3)), 0, 255).astype(np.uint8) for _ in range(3)]
    assert all(change.flow < 0.2 for change in motion.changes(noisy))
    values = []
    for scale in (1, 2, 5):
        red = np.zeros((40 * scale, 64 * scale, 3), np.uint8)
        half = red.copy()
        half[:, : 32 * scale] = 200
        values.append(list(motion.changes([red, half]))[1].histogram)
    assert values == pytest.approx([values[0]] * 3)
    # p = (1, 0), q = (1/2, 1/2): 0.5 * (0.25 / 1.5 + 0.25 / 0.5)
    assert values[0] == pytest.approx(0.5 * (0.25 / 1.5 + 0.5))


def test_key_frames_are_where_the_content_changes() -> None:
    found = motion.key_frames(shots(96, 128, seed=7), threshold=0.25)
    assert found == (0, 21, 25, 40, 41, 55, 72, 74, 83)  # the flash at 40 changes the content twice
    with pytest.raises(SpecError):
        motion.key_frames([], histogram_weight=2)
    assert motion.key_frames([]) == ()
    assert motion.key_frames([np.zeros((1, 1, 3), np.uint8)] * 3) == (0,)
