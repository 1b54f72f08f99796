"""M-RoPE ids are those of the models' get_rope_index but after videos, where they are as the models were trained."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdata.views.positions import Vision, mrope_positions
from tests.views import tiny_models

IMAGE, VIDEO = 1, 2


def segment(parts, runs=False):
    """Token types, media and grids of parts: a number of text tokens, or (kind, grid, seconds, rate)."""
    types, media, grids = [], [], {IMAGE: [], VIDEO: []}
    for part in parts:
        if isinstance(part, int):
            types += [0] * part
            continue
        kind, (frames, rows, columns), seconds, rate = part
        tokens = rows * columns // 4
        grids[kind].append((frames, rows, columns))
        if runs and kind == VIDEO:  # `<0.5 seconds>` and markers before each patch of time, a marker after it
            starts = []
            for frame in range(frames):
                types += [0] * (3 + frame % 2)
                starts.append(len(types))
                types += [kind] * tokens + [0]
        else:
            starts = [len(types)]
            types += [kind] * (frames * tokens)
        media.append(Vision(tuple(starts), (frames, rows, columns), seconds, rate))
    return types, media, grids


def theirs(model, types, grids, seconds=None):
    """What the model numbers them."""
    ids = torch.tensor([types])
    extra = {} if seconds is None else {"second_per_grid_ts": torch.tensor(seconds)}
    positions, _ = model.get_rope_index(
        torch.full_like(ids, 5),
        mm_token_type_ids=ids,
        image_grid_thw=torch.tensor(grids[IMAGE]) if grids[IMAGE] else None,
        video_grid_thw=torch.tensor(grids[VIDEO]) if grids[VIDEO] else None,
        **extra,
    )
    return positions[:, 0].numpy()


def trained(types, media):
    """The numbering of QwenLM/Qwen3-VL qwenvl/data/rope2d.py, token by token: everything goes on after the largest."""
    runs = {}
    for medium in media:
        each = medium.grid[0] // len(medium.starts)
        for start in medium.starts:
            runs[start] = (each, medium.grid[1] // 2, medium.grid[2] // 2, medium)
    out, at = [], 0
    while at < len(types):
        following = max(max(place) for place in out) + 1 if out else 0
        if at in runs:
            frames, rows, columns, medium = runs[at]
            for t in range(frames):
                time = int(np.float32(np.float32(t) * np.float32(medium.seconds)) * np.float32(medium.rate))
                out += [(following + time, following + y, following + x) for y in range(rows) for x in range(columns)]
            at += frames * rows * columns
        else:
            out.append((following,) * 3)
            at += 1
    return np.array(out).T


even = st.integers(1, 8).map(lambda half: 2 * half)
image = st.tuples(st.just(IMAGE), st.tuples(st.just(1), even, even), st.just(1.0), st.just(1.0))
rate = st.sampled_from([0.1, 0.5, 0.6666667, 1.0, 1.0416666, 2.0, 2.0020833])
video = st.tuples(st.just(VIDEO), st.tuples(st.integers(1, 12), even, even), rate, st.just(1.0))


def parts(*media):
    """Media with at least one token of text between them, as every chat template has."""
    return st.lists(st.one_of(*media), max_size=4).flatmap(
        lambda found: st.lists(st.integers(1, 9), min_size=len(found) + 1, max_size=len(found) + 1).map(
            lambda gaps: [part for pair in zip(gaps, found, strict=False) for part in pair] + gaps[-1:]
        )
    )


@settings(max_examples=60, deadline=None)
@given(parts(image))
def test_pictures_are_numbered_alike_by_all(found):
    types, media, grids = segment(found)
    ours = mrope_positions(len(types), media)
    assert ours.dtype == np.int64
    assert np.array_equal(ours, mrope_positions(len(types), media, variant="transformers"))
    assert np.array_equal(ours, trained(types, media))
    for model in (tiny_models.qwen2_vl(), tiny_models.qwen2_5_vl(), tiny_models.qwen3_vl()):
        assert np.array_equal(ours, theirs(model, types, grids))


@settings(max_examples=60, deadline=None)
@given(parts(image, video.map(lambda part: (*part[:2], 1.0, 1.0))))
def test_videos_of_qwen2(found):
    types, media, grids = segment(found)
    assert np.array_equal(mrope_positions(len(types), media), trained(types, media))
    ours = mrope_positions(len(types), media, variant="transformers")
    assert np.array_equal(ours, theirs(tiny_models.qwen2_vl(), types, grids))


@settings(max_examples=60, deadline=None)
@given(parts(image, video), st.sampled_from([1, 2, 4]))
def test_videos_of_qwen2_5(found, rate):
    found = [part if isinstance(part, int) or part[0] == IMAGE else (*part[:3], float(rate)) for part in found]
    types, media, grids = segment(found)
    seconds = [part[2] for part in found if not isinstance(part, int) and part[0] == VIDEO]
    assert np.array_equal(mrope_positions(len(types), media), trained(types, media))
    ours = mrope_positions(len(types), media, variant="transformers")
    assert np.array_equal(ours, theirs(tiny_models.qwen2_5_vl(rate), types, grids, seconds))


@settings(max_examples=60, deadline=None)
@given(parts(image, video.map(lambda part: (*part[:2], 1.0, 1.0))))
def test_videos_of_qwen3(found):
    types, media, grids = segment(found, runs=True)
    ours = mrope_positions(len(types), media)
    assert np.array_equal(ours, mrope_positions(len(types), media, variant="transformers"))
    assert np.array_equal(ours, trained(types, media))
    assert np.array_equal(ours, theirs(tiny_models.qwen3_vl(), types, grids))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(image, video.map(lambda part: (*part[:3], 25.0)), st.integers(3, 60)), st.integers(1, 5)),
        min_size=1,
        max_size=4,
    )
)
def test_qwen2_5_omni_goes_on_after_the_largest_and_hears_in_a_line(found):
    model = tiny_models.qwen2_5_omni()
    ids, media, grids, seconds, heard = [], [], {IMAGE: [], VIDEO: []}, [], []
    for part, text in found:
        ids += [5] * text
        if isinstance(part, int):  # frames of mel, of which the model hears every fourth
            heard.append(part)
            ids += [105, *[104] * (((part - 1) // 2 + 1 - 2) // 2 + 1), 106]
            continue
        kind, grid, each, rate = part
        grids[kind].append(grid)
        seconds += [each] if kind == VIDEO else []
        media.append(Vision((len(ids) + 1,), grid, each, rate))
        ids += [102, *[100 if kind == IMAGE else 101] * (grid[0] * grid[1] * grid[2] // 4), 103]
    ids.append(5)
    if not media:
        return  # without pictures the installed model answers plain positions of another kind
    expected, _ = model.get_rope_index(
        torch.tensor([ids]),
        torch.tensor(grids[IMAGE]) if grids[IMAGE] else None,
        torch.tensor(grids[VIDEO]) if grids[VIDEO] else None,
        audio_seqlens=torch.tensor(heard) if heard else None,
        second_per_grids=torch.tensor(seconds) if seconds else None,
    )
    assert np.array_equal(mrope_positions(len(ids), media), expected[:, 0].numpy())


def test_text_after_a_long_video():
    """Ten grids of 4 x 4: installed transformers number the text after them from 3, inside the video's time."""
    types, media, grids = segment([1, (VIDEO, (10, 4, 4), 1.0, 1.0), 2])
    assert theirs(tiny_models.qwen2_vl(), types, grids)[:, -2:].tolist() == [[3, 4]] * 3
    assert mrope_positions(len(types), media, variant="transformers")[:, -2:].tolist() == [[3, 4]] * 3
    assert mrope_positions(len(types), media)[:, -2:].tolist() == [[11, 12]] * 3
    assert mrope_positions(len(types), media)[0, :-2].max() == 10


def test_time_is_cut_off_after_the_product():
    (medium,) = segment([(VIDEO, (5, 2, 2), 0.7, 2.0)])[1]
    assert mrope_positions(5, [medium])[0].tolist() == [0, 1, 2, 4, 5]  # 0, 1.4, 2.8, 4.2, 5.6


def test_text_alone_and_nothing():
    assert mrope_positions(3, []).tolist() == [[0, 1, 2]] * 3
    assert mrope_positions(0, []).shape == (3, 0)
