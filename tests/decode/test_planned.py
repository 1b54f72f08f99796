"""Pixels for a plan: exact by default, fewer only where asked for and where the plan leaves room."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from mmdata.decode import image
from mmdata.decode.planned import Fidelity, decode_for, largest_target
from mmdata.errors import DataError
from mmdata.types import Crop, Flip, Fork, Normalise, Op, Pad, Resize, Standardise, Tile
from mmdata.views.pixels import apply

from .pictures import odd_kinds, photo, save

LIMIT = image.MAX_PIXELS
HALF = Normalise((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SQUARE: tuple[Op, ...] = (Resize(120, 120), HALF)


@pytest.mark.parametrize("name", odd_kinds())
@pytest.mark.parametrize("fidelity", ["exact", "guarded", "fast"])
def test_small_pictures_are_always_exact(name: str, fidelity: Fidelity) -> None:
    data = odd_kinds()[name]
    pixels = decode_for(data, SQUARE, fidelity=fidelity, max_pixels=LIMIT)
    np.testing.assert_array_equal(pixels, image.decode(data, max_pixels=LIMIT))


def test_the_guard_is_kept_for_every_branch() -> None:
    data = save(photo(1200, 900), "JPEG", quality=92)

    def size(ops: tuple[Op, ...], fidelity: Fidelity) -> tuple[int, ...]:
        return decode_for(data, ops, fidelity=fidelity, max_pixels=LIMIT).shape[:2]

    assert size(SQUARE, "exact") == (900, 1200)
    assert size(SQUARE, "guarded") == (450, 600)
    assert size(SQUARE, "fast") == (225, 300)
    assert size((Flip(), Resize(50, 150)), "guarded") == (225, 300)
    assert size((Flip(), Resize(50, 151)), "guarded") == (450, 600)
    assert size((Resize(100, 301), Resize(10, 10)), "guarded") == (900, 1200)
    tiles: tuple[Op, ...] = (Fork(((Resize(100, 100),), (Resize(200, 300), Pad(50, 0, 50, 0), Tile(1, 1)))), HALF)
    assert size(tiles, "guarded") == (450, 600)
    assert size(tiles, "fast") == (225, 300)
    for needs_all in ((Crop(0, 0, 8, 8),), (Pad(0, 300, 0, 0), Resize(9, 9)), (Standardise(), Resize(9, 9)), ()):
        assert largest_target(needs_all) is None
        assert size(needs_all, "fast") == (900, 1200)
        assert size((Fork(((Resize(9, 9),), needs_all)),), "fast") == (900, 1200)


def test_approximate_pixels_are_near_and_have_the_planned_shape() -> None:
    data = save(photo(1200, 900), "JPEG", quality=92)
    exact = apply(decode_for(data, SQUARE, max_pixels=LIMIT), SQUARE[:1]).double()
    for fidelity, least in (("guarded", 40), ("fast", 28)):
        near = apply(decode_for(data, SQUARE, fidelity=fidelity, max_pixels=LIMIT), SQUARE[:1]).double()  # type: ignore[arg-type]
        assert near.shape == exact.shape
        assert 10 * np.log10(255**2 / ((near - exact) ** 2).mean()) > least


def test_sizes_that_the_index_does_not_know_are_refused_before_decoding() -> None:
    data = save(photo(120, 80), "JPEG")
    assert decode_for(data, SQUARE, max_pixels=LIMIT, size=(80, 120)).shape == (80, 120, 3)
    broken = data[: len(data) // 2]
    with pytest.raises(DataError) as caught:
        decode_for(broken, SQUARE, max_pixels=LIMIT, size=(120, 80))
    assert caught.value.reason == "facts_mismatch"
    with pytest.raises(DataError) as caught:
        decode_for(data, SQUARE, max_pixels=80 * 120 - 1, size=(80, 120))
    assert caught.value.reason == "decompression_bomb"


@pytest.mark.parametrize("fidelity", ["exact", "guarded", "fast"])
def test_damage_is_damage_in_every_mode(fidelity: Fidelity) -> None:
    data = save(photo(1200, 900), "JPEG", quality=92)
    with pytest.raises(DataError) as caught:
        decode_for(data[:-100], SQUARE, fidelity=fidelity, max_pixels=LIMIT)
    assert caught.value.reason == "truncated_image"


def test_decoding_and_resizing_release_the_interpreter() -> None:
    """Another thread of pure Python comes forward while one large picture after the other is decoded."""
    data = save(photo(2400, 1800), "JPEG", quality=92)
    decode_for(data, SQUARE, max_pixels=LIMIT)
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            pass

    thread = threading.Thread(target=count)
    thread.start()
    both, mine = time.process_time(), time.thread_time()
    for _ in range(5):
        apply(decode_for(data, SQUARE, max_pixels=LIMIT), SQUARE)
    both, mine = time.process_time() - both, time.thread_time() - mine
    done.set()
    thread.join()
    # Were it held through the libraries' calls, the other thread would come to a tenth of this one's time.
    assert both > 1.4 * mine, (both, mine)
