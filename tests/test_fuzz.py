# ruff: noqa: E501 the table is read line by line
"""Whatever bytes are read, only DataError or SpecError comes out, and soon: parsers of media headers, tars, indexes,
manifests, specs and of what lies in them, on whole inputs that were cut, flipped, spliced and made up.

`make soak` tries four hundred times as many."""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmdata import expression, specfile
from mmdata.decode import flac, image, jp2, sniff, structure, wav
from mmdata.errors import DataError, SpecError
from mmdata.fetch.robots import parse_rules
from mmdata.fetch.url import parse_url
from mmdata.shards import index, manifest, packet_table, tar
from mmdata.shards.foreign_tar import TarPass
from mmdata.shards.index import Index, IndexRow, Part
from mmdata.sources import _subtitles
from mmdata.types import Packets

SECONDS = 3.0
"""For one input of some KB, on a machine that others use too; all take milliseconds."""


def picture(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = (np.arange(24 * 16 * 3) * 7 % 256).astype(np.uint8).reshape(16, 24, 3)
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


def archive(format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as made:
        for name, data in (
            ("a/1.jpg", b"x" * 700),
            ("a/1.txt", b"hi"),
            ("b" * 80 + "/" + "c" * 60 + ".jpg", b"y" * 30),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("c.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(link)
    return file.getvalue()


def own_tar() -> bytes:
    file = io.BytesIO()
    writer = tar.TarWriter(file)
    writer.add("000000001.jpg", b"x" * 700)
    writer.add("000000001.txt", b"hi")
    writer.finish()
    return file.getvalue()


def rows() -> bytes:
    part = Part(name="txt", kind="text", offset=512, size=2, crc32c=7, role="caption", train=True)
    return bytes(index.to_bytes([IndexRow(key="000000001", row=1, origin="a", origin_row=1, parts=(part,))]))


def sound() -> bytes:
    import wave

    file = io.BytesIO()
    with wave.open(file, "wb") as made:
        made.setnchannels(1)
        made.setsampwidth(2)
        made.setframerate(8000)
        made.writeframes(bytes(range(200)))
    return file.getvalue()


class Bytes:
    """A source of a tar that lies in memory."""

    uri = "memory.tar"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]


def _members(data: bytes) -> None:
    for _ in TarPass(Bytes(data)).members():  # type: ignore[arg-type]
        pass
    for member in TarPass(Bytes(data), wanted=lambda name, size: size < 1000).members():  # type: ignore[arg-type]
        assert 0 <= member.offset <= member.offset + member.size <= len(data)


def _on_disk(read: Callable[[Path], Any]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file.yaml"
            path.write_bytes(data)
            read(path)

    return run


def _index(path: Path) -> None:
    Index(path).rows()  # without the manifest's checksum, which would refuse any damage before Arrow looks at it


def _spec(path: Path) -> None:
    specfile.load_build(str(path), ["steps.0.pixels=3"], check_paths=False)


def _text(read: Callable[[str], Any]) -> Callable[[bytes], None]:
    return lambda data: read(data.decode("utf-8", "replace"))


def _where(text: str) -> None:
    try:
        expression.compile(text)
    except ValueError as error:  # what a field of a spec raises, and pydantic makes a SpecError of
        if not str(error).startswith("where: "):
            raise


MANIFEST = b'{"version": 4, "generation": 0, "created_by": "x", "spec": {}, "table": null, "self_sha256": "0"}'
SPEC = b"source: {kind: folder, path: in}\nsteps:\n  - {kind: min_side, pixels: 3}\n  - &a {kind: probe}\noutput: {path: o}\n"
TABLE = packet_table.to_bytes(Packets(time_base=(1, 10), pts=np.array([0, 2, 1]), flags=np.array([1, 0, 2], np.uint8)))
LIMIT = 1_000_000
PARSERS: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
    "sniff": (sniff.sniff, [picture("PNG"), b"<html>", b"RIFF\0\0\0\0WEBP"]),
    "jpeg": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("JPEG"), picture("JPEG", progressive=True)]),
    "png": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("PNG"), picture("PNG", optimize=True)]),
    "gif": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("GIF")]),
    "webp": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("WEBP"), picture("WEBP", lossless=True)]),
    "tiff": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("TIFF"), picture("TIFF", compression="tiff_lzw")]),
    "bmp": (lambda data: image.decode(data, max_pixels=LIMIT), [picture("BMP")]),
    "jp2": (lambda data: (jp2.check(data), image.read_header(data, max_pixels=LIMIT)), [picture("JPEG2000")]),
    "header": (lambda data: image.read_header(data, max_pixels=LIMIT), [picture("PNG"), picture("WEBP"), picture("TIFF")]),
    "gif frames": (lambda data: structure.gif_frames(data, whole=True), [picture("GIF")]),
    "wav": (wav.read_header, [sound()]),
    "flac": (flac.open_flac, [b"fLaC\x00\x00\x00\x22" + bytes(34) + b"\xff\xf8" + bytes(40)]),
    "packet table": (packet_table.from_bytes, [TABLE]),
    "foreign tar": (_members, [archive(tarfile.USTAR_FORMAT), archive(tarfile.PAX_FORMAT), archive(tarfile.GNU_FORMAT)]),
    "own tar": (_on_disk(lambda path: list(tar.walk(path))), [own_tar()]),
    "index": (_on_disk(_index), [rows()]),
    "manifest": (lambda data: manifest.from_bytes(data, "m"), [MANIFEST]),
    "spec": (_on_disk(_spec), [SPEC]),
    "where": (_text(_where), [b"WIDTH >= 256 and (a.b < 0.3 or is_null(c)) and contains(d, 'x')"]),
    "url": (_text(parse_url), [b"http://user@ex\xc3\xa4mple.org:80/a/../b?q=%2f#t", b"http://[::ffff:7f00:1]/", b"http://0x7f.1/"]),
    "robots": (lambda data: parse_rules(data, "mmdata"), [b"User-agent: *\nDisallow: /a*b$\nCrawl-delay: 1e9\nSitemap: x\n"]),
    "subtitles": (lambda data: (_subtitles.read(data, "a.vtt"), _subtitles.read(data, "a.srt")), [b"WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n", b"1\n00:00:01,0 --> 00:00:02,0\nhi\n"]),
}  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with some bytes flipped, cut out, doubled or put in; now and then bytes that nobody has written."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=300))
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        match draw(st.integers(0, 4)):
            case 0 if data:
                data[at] = draw(st.integers(0, 255))
            case 1:
                del data[at:]
            case 2:
                del data[at : at + draw(st.integers(1, 40))]
            case 3:
                data[at:at] = draw(st.binary(max_size=12))
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 600))]
    return bytes(data)


def _try(name: str, data: bytes) -> None:
    parse, _ = PARSERS[name]
    began = time.process_time()
    try:
        parse(data)
    except (DataError, SpecError):
        pass
    assert time.process_time() - began < SECONDS, f"{name}: {data!r}"


@pytest.mark.parametrize("name", PARSERS)
def test_only_errors_in_the_data_come_out(name: str) -> None:
    _run(name, 15)


@pytest.mark.soak
@pytest.mark.parametrize("name", PARSERS)
def test_only_errors_in_the_data_come_out_however_often(name: str) -> None:
    _run(name, 10_000)


def _run(name: str, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=timedelta(seconds=30),
        suppress_health_check=list(HealthCheck),
        derandomize=examples < 1000,
        database=None,
    )
    @given(damaged(PARSERS[name][1]))
    def tried(data: bytes) -> None:
        _try(name, data)

    for seed in PARSERS[name][1]:
        _try(name, seed)
    tried()
