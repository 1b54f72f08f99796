from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmdata.native import library

_NAMES = {library.AVX2: "avx2", library.AVX512: "avx512"}


@pytest.fixture(scope="module", params=range(1, library.level() + 1), ids=_NAMES.get)
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    """The kernels of each level that the processor has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMDATA_NATIVE", _NAMES[request.param])
        library.level.cache_clear()
        assert library.level() == request.param
        yield request.param
    library.level.cache_clear()
