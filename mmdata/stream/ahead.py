"""Bytes of remote datasets, read ahead of the deals that will ask for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from mmdata.errors import DataError
from mmdata.families._family import Family, views
from mmdata.shards.dataset import Dataset
from mmdata.shards.index import Part
from mmdata.shards.prefetch import Piece, Prefetcher, Request
from mmdata.stream.deal import Deal
from mmdata.stream.materialized import usable
from mmdata.stream.order import Shuffle
from mmdata.stream.spec import StreamSpec
from mmdata.types import Item, Media, Place

AHEAD_BYTES = 256 << 20
THREADS = 8
SHARING = 8
"""Ranks that may share a node and its cache: of a shard that more ranks read, no node wants more than its share."""


class ReadAhead:
    """Reads what deals need of remote `datasets` from when they are known (`coming`) until they are read (`done`), with
    `THREADS` requests at a time and at most `AHEAD_BYTES`. Of local files nothing is read: the system does that.

    Shards are kept whole in the cache where the order goes through them one by one or in blocks, and so few of `ranks`
    read each with others' nodes that at least half of it is wanted here; under a global shuffle only those of which at
    least half is wanted at a time. Belongs to one process; any of its threads may ask.
    """

    def __init__(self, datasets: Sequence[Dataset], spec: StreamSpec, family: Family | None, ranks: int = 1) -> None:
        self._datasets = datasets
        self._remote = [dataset for dataset in datasets if dataset.folder.remote]
        self._spec = spec
        self._family = family
        self._share = share(spec.shuffle, ranks)
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
        if self._share:
            found = {request.source.uri: int(request.source.size * self._share) for request in requests}
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
            return dataset.requests(item.position, self._places(item, dataset.row(item.position).parts))
        except DataError:
            return []  # who reads the sample says so

    def _places(self, item: Item, parts: Sequence[Part]) -> list[Place]:
        """What a reader will ask for, as far as it is known before the text is read: of a medium what a view made of
        it, where a plan of the sample wants just that, else its own bytes."""
        if item.damaged is not None:
            return []
        texts = [part.place for part in parts if part.kind in ("text", "meta")]
        media: list[Media] = []
        for part in parts:
            if part.kind == "stored":
                media[-1] = replace(media[-1], made=(*media[-1].made, part.to_stored(None)))
            elif part.kind in ("image", "video", "audio"):
                medium = part.to_part(None)
                assert isinstance(medium, Media), part
                media.append(medium)
        return [place for place in (*texts, *self._wanted(item, media)) if place is not None]

    def _wanted(self, item: Item, media: Sequence[Media]) -> list[Place | None]:
        if self._family is None or not any(medium.made for medium in media):
            return [medium.place for medium in media]
        wanted: list[Place | None] = []
        for medium, view in zip(media, views(self._family, media), strict=True):
            # A template may put media into another order than parts have, so each plan may be that of each medium.
            # Pictures that are augmented are made of their own bytes.
            plans = () if self._spec.augment is not None and medium.kind != "audio" else item.media
            fits = (usable(medium, view, plan, self._spec) for plan in plans if plan.kind == medium.kind)
            made = next((stored for stored in fits if stored is not None), None)
            wanted.append(medium.place if made is None else made.place)
        return wanted


def share(shuffle: Shuffle, ranks: int) -> float:
    """Of a shard that is read, what a node will want of it by and by, 0 to 1; 0 where nobody can say. The packs of a
    step are dealt to all ranks: with hundreds of nodes each would download every shard, to use a few samples of it.

    >>> share("block", 8), share("block", 16), share("block", 4096), share("global", 1)
    (1.0, 0.5, 0.001953125, 0.0)
    """
    return 0.0 if shuffle == "global" else min(1.0, SHARING / ranks)
