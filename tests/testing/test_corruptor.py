"""Damaged media of every kind and format: what must be refused is, what is whole is read, and nothing else happens."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmdata.decode import audio, image
from mmdata.errors import DataError
from mmdata.testing import corrupt, corruptions, judge, specimen
from mmdata.testing.corruptor import KINDS, PAIRS, STRIDE, Corruption
from mmdata.testing.specimens import FORMATS, IMAGES, SOUNDS, medium_of

DAMAGED = list(corruptions(3 * len(PAIRS), seed=5))


def test_every_kind_of_every_format_ends_as_it_must() -> None:
    problems = [verdict.problem for verdict in map(judge, DAMAGED) if verdict.problem]
    assert problems == []
    assert Counter((one.kind, one.format) for one in DAMAGED) == {(kind.name, format): 3 for kind, format in PAIRS}


def test_damage_is_a_function_of_the_seed_and_is_damage() -> None:
    assert list(corruptions(40, seed=5, first=100)) == DAMAGED[100:140]
    assert list(corruptions(40, seed=6)) != DAMAGED[:40]
    whole = {specimen(format, number) for format in FORMATS for number in range(12)}
    assert not whole & {one.data for one in DAMAGED if one.kind != "mistaken"}
    assert np.gcd(STRIDE, len(PAIRS)) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_specimens_are_whole(format: str) -> None:
    whole = specimen(format, 3)
    untouched = Corruption(data=whole, kind="none", format=format, medium=medium_of(format), seed=3, outcome="whole")
    assert judge(untouched).problem == ""
    assert len({specimen(format, number) for number in range(5)}) == 5


def test_what_stays_whole_has_the_same_pixels_and_samples() -> None:
    for kind in KINDS:
        for format in kind.whole:
            whole = specimen(format)
            damaged = corrupt(whole, format, kind.name, seed=2).data
            if format in IMAGES:
                read = lambda data: image.decode(data, max_pixels=10_000)  # noqa: E731
                np.testing.assert_array_equal(read(damaged), read(whole))
                np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(damaged)).convert("RGB")), read(whole))
            else:
                assert format in SOUNDS
                np.testing.assert_array_equal(audio.decode(damaged), audio.decode(whole))


def test_lies_and_bombs_say_what_they_should() -> None:
    """As other libraries read the headers."""
    for format in ("png", "jpeg", "gif", "bmp"):
        lying = corrupt(specimen(format), format, "lying", seed=1).data
        width, height = Image.open(io.BytesIO(lying)).size
        assert (width, height % 72, height > 72) == (96, 0, True), format
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(corrupt(specimen("png"), "png", "bomb").data))
    sound = corrupt(specimen("flac"), "flac", "bomb").data
    assert soundfile.info(io.BytesIO(sound)).frames > 1 << 35


def test_a_careless_reader_is_told_so() -> None:
    def pillow(damaged: Corruption) -> None:
        """As many pipelines read: whatever Pillow opens is fine."""
        try:
            Image.open(io.BytesIO(damaged.data))
        except Exception as error:
            raise DataError("corrupt_image", str(error)) from error

    pictures = [one for one in DAMAGED if one.medium == "image"]
    problems = [verdict.problem for one in pictures if (verdict := judge(one, pillow)).problem]
    assert len(problems) > 30
    assert any("cut" in problem and "though it must be refused" in problem for problem in problems)

    def crash(damaged: Corruption) -> None:
        raise ZeroDivisionError("division by zero")

    assert judge(DAMAGED[0], crash).problem.endswith("ZeroDivisionError: division by zero")

    def odd(damaged: Corruption) -> None:
        raise DataError("no_such_reason", "x")

    assert "no reason of a damaged" in judge(DAMAGED[0], odd).problem
    whole = next(one for one in DAMAGED if one.outcome == "whole")
    assert judge(whole, odd).problem.endswith("though it is whole")


def test_wrong_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no kind 'cuts'; known are empty, stub"):
        corrupt(b"", "png", "cuts")
    with pytest.raises(ValueError, match="bomb: not done to mp3"):
        corrupt(specimen("mp3"), "mp3", "bomb")
