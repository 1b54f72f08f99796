"""What the two pipelines of video clips share: the first one's output is the second one's input."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.running import Run, run
from tests.pipelines.test_video_clips import films


@pytest.fixture(scope="session")
def films_cut(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """What `video_clips.yaml` made of a few films, and where."""
    folder = tmp_path_factory.mktemp("films")
    manifest = films(folder / "films")
    return run("video_clips.yaml", folder / "cut", f"source.path={manifest}"), folder / "cut"
