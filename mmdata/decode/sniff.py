"""What bytes are, told from the bytes themselves: names and headers on the web lie, magic numbers seldom do."""

from __future__ import annotations

import codecs
import re

# Offset 0 unless said otherwise; the first match wins, so longer and stricter magics come first.
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (b"\xff\x0a", "jxl"),
    (b"8BPS", "psd"),
    (b"%PDF-", "pdf"),
    (b"%!PS", "postscript"),
    (b"\x1aE\xdf\xa3", "webm"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"ID3", "mp3"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"Rar!\x1a\x07", "rar"),
    (b"PAR1", "parquet"),
    (b"ARROW1", "arrow"),
    (b"\x7fELF", "elf"),
    (b"FLV\x01", "flv"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"\x00\x00\x01\xb3", "mpeg"),
)
_RIFF = {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_BMP_HEADERS = {12, 16, 40, 52, 56, 64, 108, 124}
_HTML = re.compile(
    rb"<(?:!doctype html|html|head|body|title|script|meta|div|p|a|h[1-6]|table|center|iframe|br|style|span)[\s/>]", re.I
)
_SVG = re.compile(rb"<(?:!doctype )?svg[\s>]", re.I)
_MPEG_AUDIO = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]", re.S)


def sniff(data: bytes) -> str | None:
    """The format of `data` by its leading bytes, or None where they say nothing (also for no bytes).

    Pictures: jpeg png gif webp tiff bmp avif heic jp2 jxl ico psd svg; other media: mp4 webm avi mpeg flv mp3 wav flac
    ogg; documents: html xml json pdf postscript text; containers: gzip bzip2 xz zstd zip 7z rar parquet arrow elf.
    Only the first kilobyte is looked at, so the answer is a claim to be checked by a decoder, not a proof.

    >>> sniff(b"GIF89a..."), sniff(b"  <!DOCTYPE html><html>"), sniff(b"{\\"error\\": 404}"), sniff(b"")
    ('gif', 'html', 'json', None)
    """
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _iso_media(data)
    if data[:4] in (b"\x00\x00\x01\x00", b"\x00\x00\x02\x00") and data[4:6] != b"\x00\x00" and data[9:10] == b"\x00":
        return "ico"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if _MPEG_AUDIO.match(data) and not data.startswith((b"\xff\xfe<\x00", b"\xff\xfe{\x00")):  # UTF-16 is neither.
        return "mp3"
    return _text(data[:1024], whole=len(data) <= 1024)


def _iso_media(data: bytes) -> str:
    """Tell the still-picture brands of ISO base media from video by the `ftyp` box: major, then compatible brands."""
    size = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    brands = [data[8:12], *(data[at : at + 4] for at in range(16, min(size, len(data)), 4))]
    if any(brand in _AVIF_BRANDS for brand in brands):
        return "avif"
    if any(brand in _HEIC_BRANDS for brand in brands):
        return "heic"
    return "mp4"


def _text(head: bytes, *, whole: bool) -> str | None:
    """Name a text format. Bytes with control characters are not text; neither are no bytes."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", errors="ignore").encode()
    body = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not body or any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in body):
        return None
    if body.startswith(b"<"):
        if _HTML.search(body):
            return "html"
        if _SVG.search(body):
            return "svg"
        if body.startswith((b"<?xml", b"<!--", b"<!DOCTYPE", b"<rss", b"<feed")) or re.match(
            rb"<[A-Za-z][\w:.-]*", body
        ):
            return "xml"
    if re.match(rb"\{\s*[\"}]|\[\s*[\[{\"\]\d-]", body):
        return "json"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(body, final=whole)  # A cut may fall inside a character.
    except UnicodeDecodeError:
        return None
    return "text"
