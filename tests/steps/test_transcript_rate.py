"""Characters and words per second."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from mmdata.steps.transcript_rate import TranscriptRate
from tests.steps.given import apply, build, record
from tests.steps.recordings import audio, tone


def test_a_build(tmp_path: Path) -> None:
    sound = audio(tone(2, -6))
    texts = ["thirty characters of some text", "x", "x" * 90]
    built = build(tmp_path, [record(sound, text) for text in texts], [{"kind": "transcript_rate", "min": 2, "max": 30}])
    assert built.reasons == ["", "transcript_rate", "transcript_rate"]
    assert built.details[2] == "90 chars in 2.00 s, 45 a second"
    assert built.column("per_second") == [15.0]


def test_words_of_a_role_and_silence() -> None:
    step = TranscriptRate(unit="words", roles=("assistant",))
    found = apply(step, audio(tone(2, -6)), ("user", "What is said?"), ("assistant", "one two three"))
    assert found.meta["per_second"] == 1.5  # type: ignore[union-attr]
    assert "per_second" not in apply(step, "no sound").meta  # type: ignore[union-attr]
    with pytest.raises(ValidationError, match="nothing would be kept"):
        TranscriptRate(min=3, max=2)
