"""Bytes of remote datasets, read ahead of the deals that will ask for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mmdata.errors import DataError
from mmdata.shards.dataset import Dataset
from mmdata.shards.prefetch import Piece, Prefetcher, Request
from mmdata.stream.deal import Deal
from mmdata.stream.spec import StreamSpec
from mmdata.types import Item, Place

AHEAD_BYTES = 256 << 20
THREADS = 8


class ReadAhead:
    """Reads what deals need of remote `datasets` from when they are known (`coming`) until they are read (`done`), with
    `THREADS` requests at a time and at most `AHEAD_BYTES`. Of local files nothing is read: the system does that.

    Shards are kept whole in the cache where the order goes through them one by one or in blocks; under a global shuffle
    only those of which at least half is wanted at a time. Belongs to one process; any of its threads may ask.
    """

    def __init__(self, datasets: Sequence[Dataset], spec: StreamSpec, *, packed: bool) -> None:
        self._datasets = datasets
        self._remote = [dataset for dataset in datasets if dataset.folder.remote]
        self._packed = packed
        self._whole = spec.shuffle != "global"
        self._expected: dict[str, int] = {}
        self.prefetcher: Prefetcher | None = None
        if self._remote:
            cache = self._remote[0].folder.cache
            self.prefetcher = Prefetcher(cache=cache, ahead_bytes=AHEAD_BYTES, threads=THREADS)
            for dataset in self._remote:
                dataset.read_ahead(self.prefetcher)

    def coming(self, deals: Sequence[Deal], masked: Sequence[Collection[int]] = ()) -> list[Piece]:
        """Begin to read what these deals need, but for samples that are `masked` (of each deal, their numbers in its
        pack); the answer is for `done`."""
        if self.prefetcher is None:
            return []
        items = [
            item
            for deal, left_out in zip(deals, masked or [()] * len(deals), strict=True)
            if deal.pack is not None
            for number, item in enumerate(deal.pack.items)
            if number not in left_out
        ]
        requests = [request for item in items for request in self._requests(item)]
        if self._whole:
            found = {request.source.uri: request.source.size for request in requests}
            if found.keys() - self._expected.keys():
                self._expected |= found
                self.prefetcher.expect(self._expected)
        return self.prefetcher.want(requests)

    def done(self, pieces: Sequence[Piece]) -> None:
        """Deals have been read, or given up: what was not asked for gives its room back."""
        if self.prefetcher is not None:
            self.prefetcher.release(pieces)

    def close(self) -> None:
        """Read nothing ahead any more; the datasets go on without."""
        if self.prefetcher is not None:
            for dataset in self._remote:
                dataset.read_ahead(None)
            self.prefetcher.close()

    def _requests(self, item: Item) -> list[Request]:
        dataset = self._datasets[item.dataset]
        if not dataset.folder.remote:
            return []
        try:
            parts = dataset.row(item.position).parts
            # Of a sample with stored media the view decides later which are read; what else it has is known now.
            stored = self._packed and any(part.kind == "stored" for part in parts)
            kinds = ("text", "meta") if stored else ("text", "meta", "image", "video", "audio")
            places: list[Place] = [part.place for part in parts if part.kind in kinds and part.place is not None]
            return dataset.requests(item.position, places)
        except DataError:
            return []  # who reads the sample says so
