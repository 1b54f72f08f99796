from __future__ import annotations

import io

import av
import numpy as np
import pytest
from pydantic import ValidationError

from mmdata.decode.video import read_facts
from mmdata.decode.work import Work
from mmdata.errors import DataError
from mmdata.steps.mark_frames import MarkFrames
from mmdata.types import Media, Origin, Sample, Text
from mmdata.views.video import FrameVideo

CUTS = (20, 45)


def film() -> bytes:
    """Three scenes of different colours; in the second a block runs across, in the others nothing moves."""
    rng = np.random.default_rng(0)
    rough = [np.kron(rng.integers(0, 90, (12, 16, 3)), np.ones((8, 8, 1), int)) for _ in range(3)]
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for at in range(70):
            scene = sum(at >= cut for cut in CUTS)
            picture = rough[scene].copy()
            picture[..., scene] += 160
            if scene == 1 and 28 <= at < 36:
                left = 12 * (at - 28)
                picture[24:72, left : left + 32] = 250 * (np.indices((48, 32)).sum(0)[..., None] // 6 % 2)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        file.mux(stream.encode())
    return sink.getvalue()


@pytest.fixture(scope="module")
def sample() -> Sample:
    data = film()
    facts = read_facts(data)
    video = Media(
        kind="video", data=data, frames=facts.frames, fps=facts.fps, height=96, width=128, packets=facts.packets
    )
    picture = Media(kind="image", data=b"", height=1, width=1)
    return Sample(key="a", parts=(Text(text="x"), video, picture), origin=Origin(uri="", row=0))


def marks(sample: Sample, **options: object) -> dict[str, tuple[int, ...]]:
    marked = MarkFrames(**options).apply(sample, Work())
    assert isinstance(marked, Sample)
    assert marked.parts[0] == sample.parts[0]
    assert marked.parts[2] == sample.parts[2]
    return dict(marked.media[0].marks)


def test_scenes_are_marked(sample: Sample) -> None:
    assert marks(sample) == {"scenes": CUTS}
    assert marks(sample, detector="adaptive") == {"scenes": CUTS}
    assert marks(sample, min_scene=60) == {"scenes": ()}


def test_keys_are_marked(sample: Sample) -> None:
    assert marks(sample, find="keys") == {"keys": (0, *CUTS)}


def test_motion_is_marked_where_something_moves(sample: Sample) -> None:
    found = marks(sample, find="motion", num_frames=4, spacing=0.2)["motion"]
    assert len(found) == 4
    assert set(found) <= {*CUTS, *range(28, 37)}
    assert min(np.diff(found)) >= 2


def test_a_view_goes_by_the_marks(sample: Sample) -> None:
    marked = sample
    for find in ("scenes", "motion"):
        marked = MarkFrames(find=find, num_frames=3).apply(marked, Work())
    video = marked.media[0]
    assert set(video.marks) == {"scenes", "motion"}
    assert FrameVideo(rule="scenes", num_frames=3).plan(video).frames == (9, 32, 57)
    assert FrameVideo(rule="motion", num_frames=3).plan(video).frames == video.marks["motion"]


def test_damage_is_named(sample: Sample) -> None:
    broken = Sample(key="a", parts=(Media(kind="video", data=b"no video"),), origin=Origin(uri="", row=0))
    with pytest.raises(DataError):
        MarkFrames().apply(broken, Work())
    with pytest.raises(ValidationError, match="no threshold"):
        MarkFrames(find="motion", threshold=1.0)
