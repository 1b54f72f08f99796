"""A small finished dataset: real photographs, hostile strings, every kind of fate, written through `mmdata.shards`."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import crc32c
import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from mmdata import ledger
from mmdata.ledger import LedgerRow
from mmdata.shards import index
from mmdata.shards import manifest as manifests
from mmdata.shards.index import IndexRow, Part
from mmdata.shards.storage import sha256_file
from mmdata.shards.tar import TarWriter

HOSTILE = (
    "<script>document.title='owned'</script> \"><img src=x onerror=\"document.title='owned'\"> {{ 7*7 }} {% raw %} "
    "&amp; 'quoted' \u202eright to left override\u202c مرحبا بالعالم שלום 你好 🦉👩\u200d🚀 "
    "Z\u0301\u0302\u0303\u0304\u0305algo \x00\x07 "
)
LONG = (HOSTILE + "word ") * (5000 // len(HOSTILE) + 1)
CAPTIONS = (
    "A cup of coffee on a saucer, seen from above, with a spoon at its side.",
    "A tabby cat looks into the camera.",
    "An astronaut in an orange suit in front of a flag and a model of the shuttle.",
    "Rocket on a launch pad at dusk; floodlights.",
    "A dahlia",
    "The roof of a temple in Beijing under a blue sky, with trees on both sides and visitors in front of it.",
    "我家的貓在看著鏡頭。",
    "صورة لرجل يحمل كاميرا",
)
STEPS = (
    {"kind": "probe", "verify": "full", "animated": "drop"},
    {"kind": "caption_length", "min_characters": 2, "max_characters": 10_000},
    {"kind": "min_side", "pixels": 64},
    {"kind": "aspect", "most": 3.0},
    {"kind": "exact_dedup", "of": ["bytes", "pixels"]},
)
Fate = tuple[str, str, str, int | None, int, int | None, bool]
# (state, reason, detail, step, attempts, HTTP status, was it fetched?)
FATES: tuple[Fate, ...] = (
    ("failed_permanent", "http_404", "404 Not Found", None, 1, 404, False),
    ("failed_transient", "http_503", "503 after 4 attempts; Retry-After: 120", None, 4, 503, False),
    ("failed_transient", "timeout", "no byte for 20 s", None, 4, None, False),
    ("filtered", "where", "WIDTH >= 64 and punsafe < 0.5", None, 0, None, False),
    ("opted_out", "robots", "robots.txt disallows /private/", None, 0, None, False),
    ("failed_permanent", "truncated_image", "JPEG ends after 812 of 4,096 bytes <b>bold</b>", 0, 1, 200, True),
    ("failed_permanent", "not_an_image", HOSTILE, 0, 1, 200, True),
    ("filtered", "caption_too_short", "1 character", 1, 1, 200, True),
    ("filtered", "too_small", "48 by 48, at least 64 wanted", 2, 1, 200, True),
    ("filtered", "aspect", "1200 by 300 is 4.0, at most 3.0 wanted", 3, 1, 200, True),
    ("duplicate", "same_bytes", "", 4, 1, 200, True),
    ("failed_permanent", "decoder_timeout", "more than 30 s", None, 1, 200, True),
)


@functools.cache
def photos() -> tuple[tuple[str, bytes], ...]:
    """(format, bytes) of photographs that scikit-image and scikit-learn carry."""
    found: list[tuple[str, bytes]] = []
    for package, names in (
        (
            "skimage/data",
            ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "rocket.jpg", "ihc.png"),
        ),
        ("sklearn/datasets/images", ("china.jpg", "flower.jpg")),
    ):
        top, _, rest = package.partition("/")
        spec = importlib.util.find_spec(top)  # found, not imported: that takes seconds
        assert spec is not None, f"{top} is not installed"
        assert spec.origin is not None
        folder = Path(spec.origin).parent / rest
        found += [(name.rsplit(".", 1)[1], folder.joinpath(name).read_bytes()) for name in names]
    return tuple(found)


@functools.cache
def photo(number: int) -> tuple[str, bytes]:
    """A photograph cut to a size and shape of its own."""
    form, data = photos()[number % len(photos())]
    if number < len(photos()):
        return form, data
    random = np.random.default_rng(number)
    image = small(number % len(photos())).convert("L" if number % 11 == 0 else "RGB")
    share = random.uniform(0.35, 1.0, 2)
    width, height = (max(64, int(side * part)) for side, part in zip(image.size, share, strict=True))
    out = io.BytesIO()
    form = ("jpg", "jpg", "png", "webp")[number % 4]
    image.crop((0, 0, width, height)).save(out, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[form], method=0)
    return form, out.getvalue()


@functools.cache
def small(number: int, side: int = 360) -> Image.Image:
    """A photograph, decoded and made small once."""
    image = Image.open(io.BytesIO(photos()[number][1])).convert("RGB")
    image.thumbnail((side, side))
    return image


@functools.cache
def ledger_thumbnail(number: int) -> bytes:
    out = io.BytesIO()
    small(number, 96).save(out, "JPEG", quality=70)
    return out.getvalue()


def caption(number: int) -> str:
    if number % 9 == 2:
        return LONG
    if number % 13 == 5:
        return HOSTILE
    return CAPTIONS[number % len(CAPTIONS)]


def uri(row: int) -> str | None:
    if row % 23 == 7:
        return "javascript:alert('owned')"
    host = ("photos.example.org", "cdn.example.com", "img.example.net", "user:secret@odd.example")[row % 7 % 4]
    return f"https://{host}/{row}/a%20b.jpg?q=\"'<x>" if row % 5 == 0 else f"https://{host}/{row}.jpg"


def fates(rows: int, seed: int = 0) -> Iterator[Fate]:
    """About three rows in five are kept; each fate comes at least once."""
    random = np.random.default_rng(seed)
    for row in range(rows):
        if row < 2 * len(FATES) and row % 2:
            yield FATES[row // 2]
        elif random.uniform() < 0.3:
            yield FATES[min(int(random.exponential(3)), len(FATES) - 1)]
        else:
            yield "ok", "", "", None, 1 + (row % 9 == 0), 200, True


def write_dataset(
    folder: Path,
    *,
    rows: int = 120,
    unit_rows: int = 50,
    publish: bool = True,
    ends: list[Fate] | None = None,
) -> manifests.Manifest:
    """A whole dataset in `folder`. Its manifest is returned, and written unless `publish` is off.

    `ends` says how each record ends, instead of the usual mixture.
    """
    for name in ("shards", "index", "ledger"):
        (folder / name).mkdir(parents=True)
    ends = list(fates(rows)) if ends is None else ends
    rows = len(ends)
    entries: list[manifests.ShardEntry] = []
    samples = 0
    for unit, first in enumerate(range(0, rows, unit_rows)):
        entry = _write_unit(folder, unit, first, ends[first : first + unit_rows], samples)
        samples += entry.rows
        entries.append(entry)
    reasons: dict[str, Counter[str]] = {}
    for state, reason, *_ in ends:
        if state != "ok":
            reasons.setdefault(state, Counter())[reason] += 1
    manifest = manifests.Manifest(
        created_by="mmdata 0.1.0",
        spec={
            "source": {"kind": "laion", "path": "metadata.parquet", "where": "WIDTH >= 64 and punsafe < 0.5"},
            "steps": list(STEPS),
            "output": {"path": "out", "unit_rows": unit_rows, "seed": 7},
            "note": "</pre><script>document.title='owned'</script>",
        },
        spec_digest="5" * 64,
        inputs=[{"name": "metadata.parquet", "size": 1234}],
        input_rows=rows,
        samples=samples,
        counts=ledger.counts(state for state, *_ in ends),
        reasons={state: dict(by_reason) for state, by_reason in reasons.items()},
        shards=entries,
        root_digest=manifests.root_digest(entries),
    )
    if publish:
        return manifests.write(folder, manifest)
    return manifest


def _write_unit(folder: Path, unit: int, first: int, ends: list[Fate], samples: int) -> manifests.ShardEntry:
    rows: list[IndexRow] = []
    book: list[LedgerRow] = []
    shard, listing, account = f"shards/{unit:06d}.tar", f"index/{unit:06d}.arrow", f"ledger/{unit:06d}.parquet"
    with open(folder / shard, "wb") as file:
        tar = TarWriter(file)
        for row, (state, reason, detail, step, attempts, status, fetched) in enumerate(ends, start=first):
            key, place = f"{row:09d}", None
            form, data = photo(row)
            width, height = Image.open(io.BytesIO(data)).size
            if state == "ok":
                place = len(rows)
                mode = Image.open(io.BytesIO(data)).mode
                words = caption(row).encode()
                facts = {"format": {"jpg": "jpeg"}.get(form, form), "height": height, "width": width, "mode": mode}
                parts = (
                    Part(name=form, kind="image", offset=tar.add(f"{key}.{form}", data), size=len(data),
                         crc32c=crc32c.crc32c(data), sha256="a" * 64, uri=uri(row), verified="full", **facts),
                    Part(name="txt", kind="text", offset=tar.add(f"{key}.txt", words), size=len(words),
                         crc32c=crc32c.crc32c(words), role="caption", train=True),
                    Part(name="json", kind="meta", offset=tar.add(f"{key}.json", b"{}"), size=2,
                         crc32c=crc32c.crc32c(b"{}")),
                )  # fmt: skip
                rows.append(IndexRow(key=key, row=row, origin="metadata.parquet", origin_row=row, parts=parts))
            pictured = state != "ok" and fetched and reason not in ("truncated_image", "not_an_image") and row % 4 != 2
            book.append(
                LedgerRow(
                    row=row, key=key, origin="some/long/path/to/metadata-<part>.parquet", origin_row=row,
                    uri=uri(row), state=state, reason=reason, detail=detail, step=step,
                    of="000000000" if state == "duplicate" else None,
                    shard=unit if state == "ok" else None, shard_row=place, attempts=attempts, status=status,
                    seconds=latency(row) if attempts else None, size=len(data) if fetched else None,
                    sha256="a" * 64 if fetched else None, height=height if fetched else None,
                    width=width if fetched else None,
                    thumbnail=ledger_thumbnail(row % len(photos())) if pictured else None,
                )
            )  # fmt: skip
        tar.finish()
    (folder / listing).write_bytes(index.to_bytes(rows))
    pq.write_table(ledger.to_table(book), folder / account)
    common = {
        "unit": unit, "first": samples, "rows": len(rows), "input_first": first, "input_rows": len(ends),
        "ledger": account, "ledger_sha256": sha256_file(folder / account),
    }  # fmt: skip
    if not rows:
        (folder / shard).unlink()
        (folder / listing).unlink()
        return manifests.ShardEntry(**common)
    return manifests.ShardEntry(
        **common,
        shard=shard,
        shard_bytes=(folder / shard).stat().st_size,
        shard_sha256=sha256_file(folder / shard),
        index=listing,
        index_sha256=sha256_file(folder / listing),
        index_crc32c=crc32c.crc32c((folder / listing).read_bytes()),
    )


def latency(row: int) -> float:
    return float(np.random.default_rng(row).lognormal(-2.0, 0.9))


RUN = {
    "seconds": 75.25,
    "records": 120,
    "records_per_second": 1.594684,
    "workers": 2,
    "cpu_seconds": 101.5,
    "peak_rss_mib": 412.25,
    "fetched_bytes": 12_345_678,
    "started": "2026-01-02T03:04:05+00:00",
    "command": "python -m mmdata.build --spec laion_subset.yaml --set source.where='<script>'",
}
