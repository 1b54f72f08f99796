"""A source for tests of steps, and a build in this process: records with any parts, given as values."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mmdata.build import build_dataset
from mmdata.ledger import LedgerRow, read_rows
from mmdata.registry import register
from mmdata.shards.dataset import Dataset, open_dataset
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text


@register("source", "given")
class Given(SourceSpec):
    """Lines of JSON: parts and meta."""

    kind: Literal["given"] = "given"
    path: InputPath = runtime()

    def open(self) -> Source:
        return _Lines(Path(self.path))


class _Lines:
    def __init__(self, path: Path) -> None:
        self._lines = path.read_text().splitlines()

    def inputs(self) -> list[dict[str, Any]]:
        return [{"lines": len(self._lines)}]

    def count(self) -> int:
        return len(self._lines)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for row, line in list(enumerate(self._lines))[start:stop]:
            value = json.loads(line)
            parts = [
                Text(**part) if "text" in part else Media(**{**part, "data": base64.b64decode(part["data"])})
                for part in value["parts"]
            ]
            origin = Origin(uri=value["origin"], row=row)
            yield Record(
                row=row, sample=Sample(key=f"{row:09d}", parts=tuple(parts), meta=value["meta"], origin=origin)
            )


def record(*parts: str | tuple[str, str] | Media, origin: str = "given", **meta: Any) -> dict[str, Any]:
    """A record: texts (captions, or (role, text)), media that hold their bytes, and metadata."""
    values: list[dict[str, Any]] = []
    for part in parts:
        if isinstance(part, Media):
            assert part.data is not None
            uri = {} if part.uri is None else {"uri": part.uri}
            values.append({"kind": part.kind, "data": base64.b64encode(part.data).decode(), **uri})
        else:
            role, text = part if isinstance(part, tuple) else ("caption", part)
            values.append({"text": text, "role": role})
    return {"parts": values, "meta": meta, "origin": origin}


def image(data: bytes, uri: str | None = None) -> Media:
    return Media(kind="image", data=data, uri=uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """What a build made: its ledger in input order, and the dataset."""

    ledger: list[LedgerRow]
    dataset: Dataset

    @property
    def reasons(self) -> list[str]:
        """Of each input record; empty for what was kept."""
        return [row.reason for row in self.ledger]

    @property
    def details(self) -> list[str]:
        return [row.detail for row in self.ledger]

    @property
    def samples(self) -> list[Sample]:
        return [self.dataset[key] for key in self.dataset.keys()]  # noqa: SIM118 not a dict

    def column(self, name: str) -> list[Any]:
        """A column of the kept samples' metadata."""
        return [sample.meta.get(name) for sample in self.samples]


def build(
    folder: Path,
    records: Sequence[dict[str, Any]],
    steps: Sequence[Mapping[str, Any]],
    *,
    plugins: Sequence[str] = (),
    workers: int = 1,
    unit_rows: int = 100,
    name: str = "out",
) -> Built:
    """Build these records by `mmdata.build` in this process; every state is counted and every byte verified by it."""
    (folder / "given.jsonl").write_text("".join(json.dumps(value) + "\n" for value in records))
    spec = {
        "plugins": [__name__, *plugins],
        "source": {"kind": "given", "path": "given.jsonl"},
        "steps": [dict(step) for step in steps],
        "output": {"path": name, "unit_rows": unit_rows},
        "engine": {"workers": workers},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    build_dataset(str(folder / f"{name}.yaml"), quiet=True)
    files = sorted((folder / name / "ledger").glob("*.parquet"))
    return Built(ledger=[row for file in files for row in read_rows(file)], dataset=open_dataset(folder / name))


def apply(step: Any, *parts: str | tuple[str, str] | Media, **meta: Any) -> Sample | Drop:
    """One step over one sample, without a build."""
    from mmdata.decode.work import Work

    made = [
        part
        if isinstance(part, Media)
        else Text(text=part)
        if isinstance(part, str)
        else Text(role=part[0], text=part[1])
        for part in parts
    ]
    return step.apply(Sample(key="a", parts=tuple(made), meta=meta, origin=Origin(uri="given", row=0)), Work())
