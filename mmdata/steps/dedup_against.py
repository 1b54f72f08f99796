"""Drop samples that an existing dataset has already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mmdata.errors import DataError, SpecError
from mmdata.hamming import HammingIndex
from mmdata.registry import register
from mmdata.spec import InputPath, OrderedState, OrderedStepSpec
from mmdata.steps._kept import Digests, Keys
from mmdata.steps.exact_dedup import ExactDedup, _distinct
from mmdata.steps.near_dup import NearDup
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

How = Literal["bytes", "pixels", "near"]
NAMES: dict[How, str] = {"bytes": "exact_bytes", "pixels": "exact_pixels", "near": "phash"}
"""What an index calls the signatures."""


@register("step", "dedup_against")
class DedupAgainst(OrderedStepSpec):
    """Drop samples whose media another dataset of ours has, as that dataset's index tells: nothing of it is decoded or
    fetched again. They end as `duplicate`, reason `dup_against`, and the detail names the other dataset's sample. That
    dataset must have been built with `exact_dedup` (for `bytes` and `pixels`) or `near_dup` (for `near`); what is
    compared is what those steps say, at this point of the pipeline. Removed samples (tombstones) count as present.
    """

    kind: Literal["dedup_against"] = "dedup_against"
    dataset: InputPath
    """Folder of the other dataset."""
    of: Annotated[tuple[How, ...], AfterValidator(_distinct)] = Field(("bytes",), min_length=1)
    """What is compared. `near` is by perceptual hash, within `radius`."""
    radius: int = Field(6, ge=0, le=16)
    """For `near`: greatest number of differing bits; see `near_dup`."""
    root_digest: str | None = None
    """The other dataset's root digest. Filled in: a build is bound to what it was compared with."""

    @model_validator(mode="after")
    def _bound(self) -> Self:
        from mmdata.shards import manifest

        try:
            found = manifest.read(Path(self.dataset)).root_digest
        except DataError as error:
            raise ValueError(f"dataset: {error}") from error
        if self.root_digest not in (None, found):
            raise ValueError(f"root_digest: {self.dataset} has {found}, not {self.root_digest}")
        object.__setattr__(self, "root_digest", found)
        return self

    @property
    def needs_pixels(self) -> bool:
        """Whether exact pixels will be asked for."""
        return "pixels" in self.of

    def signature(self, sample: Sample, work: Work) -> dict[str, bytes]:
        exact = tuple(how for how in self.of if how != "near")
        found = ExactDedup(of=exact).signature(sample, work) if exact else {}
        if "near" in self.of:
            found |= NearDup().signature(sample, work)
        return {f"against_{name}": value for name, value in found.items()}

    def state(self) -> OrderedState:
        return _There(self)


class _There:
    """What the other dataset has; what this build keeps changes nothing."""

    def __init__(self, spec: DedupAgainst) -> None:
        from mmdata.shards.dataset import Dataset

        self._spec = spec
        self._keys = Keys()
        self._digests = {how: Digests() for how in spec.of if how != "near"}
        self._index = HammingIndex(radius=spec.radius)
        seen = dict.fromkeys(spec.of, 0)
        folder = Path(spec.dataset)
        manifest = Dataset(folder).manifest
        for entry in manifest.shards:
            if not entry.index:
                continue
            from mmdata.shards.index import Index

            for row in Index(folder / entry.index, crc32c=entry.index_crc32c, trusted=False).rows():
                position = self._keys.append(row.key)
                for how in spec.of:
                    value = row.signatures.get(NAMES[how])
                    if value is None:
                        continue
                    seen[how] += 1
                    if how == "near":
                        self._index.add(int.from_bytes(value, "big"), position)
                    else:
                        self._digests[how].add(value, position)
        for how, count in seen.items():
            if not count and manifest.samples:
                step = "near_dup" if how == "near" else "exact_dedup"
                raise SpecError(
                    f"dedup_against: the index of {folder} has no {NAMES[how]}; it was built without {step}, "
                    f"so leave {how!r} out of `of`, or build it with that step"
                )

    def expect(self, signatures: Sequence[Mapping[str, bytes]]) -> None:
        hashed = (each["against_phash"] for each in signatures if "against_phash" in each)
        self._index.expect(int.from_bytes(value, "big") for value in hashed)

    def check(self, key: str, signature: Mapping[str, bytes]) -> Drop | None:
        for how, digests in self._digests.items():
            value = signature.get(f"against_{NAMES[how]}")
            position = digests.find(value) if value is not None else None
            if position is not None:
                return self._drop(f"same {how}", position)
        value = signature.get("against_phash")
        near = self._index.nearest(int.from_bytes(value, "big")) if value is not None else None
        return None if near is None else self._drop(f"distance {near[0]}", near[1])

    def keep(self, key: str, signature: Mapping[str, bytes]) -> None:
        pass

    def _drop(self, how: str, position: int) -> Drop:
        # No `of`: that names a sample of this dataset.
        detail = f"{how} as {self._keys[position]} of {Path(self._spec.dataset).name}"
        return Drop(reason="dup_against", detail=detail, state="duplicate")
