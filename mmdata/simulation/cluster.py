"""What a simulation is told: the dataset, the stream, the machines, the storage, and how often nodes fail."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmdata.errors import SpecError
from mmdata.spec import Model
from mmdata.stream.order import Shuffle


class Cluster(Model):
    """A run on paper. The defaults are LAION's size and a large cluster beside an object store."""

    samples: int = Field(10**9, ge=1000)
    """Samples of the dataset."""
    mean_bytes: int = Field(150_000, ge=1)
    """Of a sample in its shard."""
    per_shard: int = Field(1000, ge=1)
    """Samples of a shard."""
    text_only: float = Field(0.3, ge=0, lt=1)
    """Share of samples without a picture."""
    family: Literal["llava", "llava_next"] = "llava_next"
    """How pictures become tokens: as many for each, or more for larger ones."""
    shuffle: Shuffle = "block"
    """As in a stream's spec, and so are these:"""
    block_samples: int = Field(10_000, ge=100)
    """Samples that are planned together."""
    max_length: int = Field(8192, ge=128)
    """Tokens of a pack."""
    seed: int = 0
    ranks: int = Field(4096, ge=1)
    """Processes that train."""
    ranks_per_node: int = Field(8, ge=1)
    """That share a node, its network and its cache."""
    packs_per_rank: int = Field(2, ge=1)
    """In a step: `global_batch` is that of all ranks."""
    step_seconds: float = Field(8.0, gt=0)
    """Of a step's computing, in perfect balance."""
    cache_bytes: int = Field(4 << 40, ge=1)
    """Of a node's local disk."""
    latency: float = Field(0.05, gt=0)
    """Seconds to the first byte of a request."""
    bandwidth: float = Field(60e6, gt=0)
    """Bytes per second of one connection."""
    node_bandwidth: float = Field(3e9, gt=0)
    """Bytes per second of a node's network that data may take."""
    request_price: float = Field(0.4e-6, ge=0)
    """Of a request, in any currency (object stores ask about 0.4 per million)."""
    node_hours: float = Field(50_000.0, gt=0)
    """Mean time between failures of one node."""
    checkpoint_seconds: float = Field(30.0, gt=0)
    """That training stands still for a checkpoint."""
    restart_seconds: float = Field(300.0, ge=0)
    """From a failure until processes run again, without the stream."""

    @model_validator(mode="after")
    def _whole_nodes(self) -> Cluster:
        if self.ranks > self.ranks_per_node and self.ranks % self.ranks_per_node:
            raise SpecError(f"ranks: {self.ranks} are no whole nodes of {self.ranks_per_node}")
        if self.block_samples > self.samples:
            raise SpecError(f"block_samples: {self.block_samples} are more than samples: {self.samples}")
        return self

    @property
    def global_batch(self) -> int:
        """Packs of a step."""
        return self.ranks * self.packs_per_rank

    @property
    def nodes(self) -> int:
        return max(1, self.ranks // self.ranks_per_node)

    @property
    def local_ranks(self) -> int:
        """Ranks of a node."""
        return min(self.ranks, self.ranks_per_node)

    @property
    def dataset_bytes(self) -> int:
        return self.samples * self.mean_bytes

    @property
    def shards(self) -> int:
        return -(-self.samples // self.per_shard)

    @property
    def shard_bytes(self) -> int:
        return self.mean_bytes * min(self.per_shard, self.samples)

    def at(self, ranks: int) -> Cluster:
        """The same on another number of ranks."""
        return self.model_copy(update={"ranks": ranks})
