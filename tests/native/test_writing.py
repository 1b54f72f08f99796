"""The kernels that write planes and patches, beside plain arithmetic on whole arrays: the same bits."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings

from mmdata.native import library, writing

pytestmark = pytest.mark.skipif(not writing.can_write(), reason="the kernels were not compiled")

FLOAT = st.floats(1 / 64, 63 / 64, width=32)
CONSTANTS = st.one_of(
    st.none(),
    st.tuples(st.tuples(FLOAT, FLOAT, FLOAT), st.tuples(FLOAT, FLOAT, FLOAT)).map(
        lambda both: tuple(tuple(float(np.float32(value) * np.float32(255)) for value in of) for of in both)
    ),
    st.just(((0.0, 127.5, 255.0), (1.0, 127.5, 3.0))),
)


@pytest.fixture(params=range(library.level() + 1), ids={0: "table", library.AVX2: "avx2", library.AVX512: "avx512"}.get)
def each_level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(writing, "level", lambda: request.param)
    return int(request.param)


def drawn(shape: tuple[int, ...], seed: int, interleaved: bool, cut: int) -> np.ndarray:
    """uint8 [..., 3, H, W] of such strides."""
    *lead, channels, rows, columns = shape
    random = np.random.default_rng(seed)
    if interleaved:
        return np.moveaxis(
            random.integers(0, 256, (*lead, rows, columns + cut, channels), np.uint8)[..., cut:, :], -1, -3
        )
    return random.integers(0, 256, (*lead, channels, rows, columns + cut), np.uint8)[..., cut:]


def normalised(pixels: np.ndarray, constants: writing.Constants | None) -> np.ndarray:
    if constants is None:
        return pixels
    shift, scale = (np.array(of, np.float32)[:, None, None] for of in constants)
    return (pixels.astype(np.float32) - shift) / scale


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    constants=CONSTANTS,
    interleaved=st.booleans(),
    cut=st.integers(0, 2),
    seed=st.integers(0, 3),
    read_late=st.booleans(),
    away=st.integers(1, 20),
)
@example(size=(2, 9000), constants=None, interleaved=True, cut=0, seed=0, read_late=True, away=1)
@example(size=(2, 9000), constants=((0.5,) * 3, (3.0,) * 3), interleaved=True, cut=0, seed=0, read_late=True, away=3)
def _planes(size, constants, interleaved, cut, seed, read_late, away) -> None:  # type: ignore[no-untyped-def]
    pixels = drawn((3, *size), seed, interleaved, cut)
    guarded = np.full(away + 3 * size[0] * size[1] + 1, 7, np.uint8 if constants is None else np.float32)
    into = guarded[away:-1].reshape(3, *size)
    writing.write_planes(pixels, into, constants, read_late=read_late)
    assert into.tobytes() == np.ascontiguousarray(normalised(pixels, constants)).tobytes()
    assert (guarded[:away] == 7).all()
    assert guarded[-1] == 7


def test_planes(each_level: int) -> None:
    _planes()


@settings(max_examples=200, deadline=None)
@given(
    times=st.integers(0, 2),
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.sampled_from([1, 2, 14, 16, 17, 32, 70]),
    merge=st.integers(1, 2),
    temporal=st.integers(1, 3),
    last=st.booleans(),
    constants=CONSTANTS,
    interleaved=st.booleans(),
    cut=st.integers(0, 2),
    before=st.integers(0, 2),
    read_late=st.booleans(),
)
def _patches(times, blocks, size, merge, temporal, last, constants, interleaved, cut, before, read_late) -> None:  # type: ignore[no-untyped-def]
    """`times` 0: one frame, which stands for `temporal` of them."""
    rows, columns = (count * merge * size for count in blocks)
    frames = drawn((max(1, times * temporal), 3, rows, columns), 0, interleaved, cut)
    full = np.repeat(frames, temporal, axis=0) if len(frames) == 1 else frames
    cut_up = normalised(full, constants).reshape(-1, temporal, 3, blocks[0], merge, size, blocks[1], merge, size)
    row = (1, 5, 8, 2) if last else (2, 1, 5, 8)
    expected = cut_up.transpose(0, 3, 6, 4, 7, *row).reshape(-1, 3 * temporal * size * size)
    guarded = np.full((len(expected), before + expected.shape[1] + 1), 7, expected.dtype)
    writing.write_patches(
        frames,
        guarded[:, before:-1],
        size=size,
        merge=merge,
        temporal=temporal,
        channels_last=last,
        constants=constants,
        read_late=read_late,
    )
    assert guarded[:, before:-1].tobytes() == expected.tobytes()
    assert (guarded[:, :before] == 7).all()
    assert (guarded[:, -1] == 7).all()


def test_patches(each_level: int) -> None:
    _patches()


def test_the_way_of_the_processor_is_the_table_s_bits(each_level: int) -> None:
    """Of all means and deviations of models only the quick way is taken if it is right for each byte: some are not."""
    random = np.random.default_rng(0)
    pixels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2).transpose(2, 0, 1)
    for _ in range(300):
        constants = tuple(tuple(map(float, random.uniform(1, 255, 3).astype(np.float32))) for _ in range(2))
        into = np.empty((3, 1, 256), np.float32)
        writing.write_planes(pixels, into, constants)
        assert into.tobytes() == normalised(pixels, constants).tobytes()


def test_what_does_not_fit_is_refused() -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)
    with pytest.raises(ValueError, match="planes"):
        writing.write_planes(pixels, np.zeros((3, 4, 5), np.uint8), None)
    with pytest.raises(ValueError, match="planes"):
        writing.write_planes(pixels, np.zeros((3, 4, 8), np.uint8)[..., ::2], None)
    with pytest.raises(ValueError, match="uint8 pixels into float32"):
        writing.write_planes(pixels, np.zeros((3, 4, 4), np.float32), None)
    read_only = np.zeros((3, 4, 4), np.uint8)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        writing.write_planes(pixels, read_only, None)
    told = {"size": 2, "merge": 1, "temporal": 1, "channels_last": False, "constants": None}
    for shape, rows in (
        ((1, 3, 4, 5), (4, 12)),
        ((1, 3, 4, 4), (3, 12)),
        ((1, 4, 4, 4), (4, 12)),
        ((1, 3, 4, 4), (4, 13)),
    ):
        with pytest.raises(ValueError, match="in patches of"):
            writing.write_patches(np.zeros(shape, np.uint8), np.zeros(rows, np.uint8), **told)
