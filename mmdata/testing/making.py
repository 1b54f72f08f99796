"""How the example's rows, files, tables and expectations are made, one row after the other."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mmdata.rng import generator
from mmdata.testing import faults
from mmdata.testing.damage import CATALOGUE, Damage
from mmdata.testing.faults import RowFault, WebFault
from mmdata.testing.photos import Variant, encode, phash, photos, variants
from mmdata.testing.plan import Behaviour, dump
from mmdata.testing.web import behind, plans

DAMAGED = 0.25
FILES = 3
ROW_GROUP = 128
HEAD = 8  # the first rows are good ones, so that every copy has something to be a copy of
NEAR = 2  # a near-duplicate is at most so many bits from its original, by this module's own hash

METADATA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float64()),
        ("punsafe", pa.float64()),
        ("pwatermark", pa.float64()),
        ("LICENSE", pa.string()),
        ("NSFW", pa.string()),
        ("hash", pa.int64()),
    ]
)
EXPECTED = pa.schema(
    [
        ("row", pa.int64()),
        ("url", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("of_row", pa.int64()),
        ("healed_state", pa.string()),
        ("healed_reason", pa.string()),
    ]
)
"""One row per record. `kind` is the damage (`clean` for none), `of_row` the row that a duplicate repeats."""

Kind = Damage | WebFault | RowFault
KINDS: tuple[Kind, ...] = (*CATALOGUE, *faults.WEB, *faults.ROWS)


@dataclass(slots=True, kw_only=True)
class _Row:
    """One record in the making."""

    number: int
    kind: Kind | None
    variant: Variant
    url: str = ""
    original: _Row | None = None


def _deal(records: int, kinds: Sequence[Kind], seed: int) -> list[Kind | None]:
    """The kind of each row: `DAMAGED` of them take the kinds in turn, at places drawn at random."""
    random = generator(seed, "deal")
    count = min(round(records * DAMAGED), max(0, records - HEAD)) if kinds else 0
    places = HEAD + random.permutation(max(0, records - HEAD))[:count]
    dealt: list[Kind | None] = [None] * records
    for turn, place in enumerate(places.tolist()):
        dealt[place] = kinds[turn % len(kinds)]
    return dealt


def write(folder: Path, records: int, kinds: Sequence[Kind], seed: int, urls: Mapping[str, str]) -> None:
    """Write tables, served files, plans and expectations of `records` rows with damage of `kinds` into `folder`.
    `urls` are those of `faults.ORIGINS`. A function of the arguments and the versions of what encodes and hashes."""
    served = folder / "served" / "images"
    served.mkdir(parents=True)
    (folder / "metadata").mkdir()
    answers: dict[tuple[str, str], tuple[Behaviour, ...]] = dict(faults.ROBOTS)
    healed = {key: value for key, value in answers.items() if key[0] != "broken"}
    licences = {photo.name: photo.licence for photo in photos()}
    table, expected = [], []
    for row, data, suffix in _rows(records, kinds, seed):
        name = f"images/{row.number:06d}{suffix}"
        (folder / "served" / name).write_bytes(data)
        here, there = _answers(row, name, urls)
        answers |= here
        healed |= there
        table.append(_metadata(row, seed, licences))
        expected.append(_expected(row, table[-1]["URL"]))
    _write_tables(folder / "metadata", table)
    pq.write_table(pa.Table.from_pylist(expected, schema=EXPECTED), folder / "expected.parquet")
    now, then = plans(urls, answers, healed)
    (folder / "plan.json").write_text(dump(now), encoding="utf-8")
    (folder / "healed.json").write_text(dump(then), encoding="utf-8")


def _rows(records: int, kinds: Sequence[Kind], seed: int) -> Iterator[tuple[_Row, bytes, str]]:
    """Each row with the bytes and the suffix of its file."""
    clean: list[_Row] = []
    for variant, kind in zip(variants(records, seed), _deal(records, kinds, seed), strict=True):
        row = _Row(number=variant.number, kind=kind, variant=variant)
        suffix = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}[variant.format]
        if kind is None:
            if variant.format == "jpeg":
                clean.append(row)
            yield row, variant.data, suffix
        elif isinstance(kind, Damage):
            random = generator(seed, kind.kind, row.number)
            if kind.state == "duplicate":
                row.original, data = _copy(kind, clean, row.number, seed)
            else:
                data = kind.make(_as_jpeg(variant), random)
            yield row, data, kind.suffix
        else:
            yield row, variant.data, suffix


def _as_jpeg(variant: Variant) -> bytes:
    return variant.data if variant.format == "jpeg" else encode(_open(variant.data).convert("RGB"), "jpeg")


def _copy(kind: Damage, clean: Sequence[_Row], number: int, seed: int) -> tuple[_Row, bytes]:
    """A copy of some earlier good row that stays within `NEAR` bits of it."""
    for attempt in range(50):
        random = generator(seed, kind.kind, number, attempt)
        original = clean[int(random.integers(len(clean)))]
        data = kind.make(original.variant.data, random)
        if (phash(_open(data)) ^ phash(_open(original.variant.data))).bit_count() <= NEAR:
            return original, data
    raise RuntimeError(f"{kind.kind}: no copy stays near its original")


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def _answers(row: _Row, file: str, urls: Mapping[str, str]) -> tuple[faults.Answers, faults.Answers]:
    """Set the row's URL; what the servers answer to it now, and once transient faults have passed."""
    kind = row.kind
    if not isinstance(kind, WebFault):
        row.url = f"{urls['mirror' if row.number % 4 == 3 else 'main']}/{file}"
        return {}, {}
    path, here, there = behind(kind, file)
    row.url = urls[kind.origin] + path
    return here, there


def _metadata(row: _Row, seed: int, licences: Mapping[str, str]) -> dict[str, Any]:
    random = generator(seed, "metadata", row.number)
    variant = row.variant
    values = {
        "URL": row.url,
        "TEXT": variant.caption,
        "WIDTH": variant.width,
        "HEIGHT": variant.height,
        "similarity": round(float(random.uniform(0.25, 0.45)), 4),
        "punsafe": round(float(random.uniform(0.0, 0.1)), 4),
        "pwatermark": round(float(random.uniform(0.0, 0.6)), 4),
        "LICENSE": licences[variant.photo],
        "NSFW": "UNLIKELY",
        "hash": int(random.integers(-(1 << 62), 1 << 62)),
    }
    return values | dict(row.kind.change) if isinstance(row.kind, RowFault) else values


def _expected(row: _Row, url: str | None) -> dict[str, Any]:
    kind = row.kind
    state, reason = ("ok", "") if kind is None else (kind.state, kind.reason)
    passes = state == "failed_transient"
    return {
        "row": row.number,
        "url": url,
        "kind": "clean" if kind is None else kind.kind,
        "state": state,
        "reason": reason,
        "of_row": None if row.original is None else row.original.number,
        "healed_state": "ok" if passes else state,
        "healed_reason": "" if passes else reason,
    }


def _write_tables(folder: Path, table: Sequence[Mapping[str, Any]]) -> None:
    size = -(-len(table) // FILES)
    for number in range(FILES):
        part = pa.Table.from_pylist(list(table[number * size : (number + 1) * size]), schema=METADATA)
        pq.write_table(part, folder / f"part-{number}.parquet", row_group_size=ROW_GROUP)
