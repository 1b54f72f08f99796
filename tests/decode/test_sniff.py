from __future__ import annotations

import gzip
import io
import json
import wave
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.decode.sniff import sniff

from .pictures import odd_kinds, photo, photographs, save


@pytest.mark.parametrize("name", odd_kinds())
def test_every_kind_of_picture_is_named_by_its_magic(name: str) -> None:
    assert sniff(odd_kinds()[name]) == name.split()[0].replace("apng", "png")


def test_real_files() -> None:
    names = {".jpg": "jpeg", ".png": "png", ".gif": "gif", ".tif": "tiff"}
    for path in photographs():
        assert sniff(path.read_bytes()) == names[path.suffix], path


def test_other_media_and_documents() -> None:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(b"\0\0" * 10)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("a.txt", "a")
    expected = {
        "wav": sound.getvalue(),
        "zip": archive.getvalue(),
        "gzip": gzip.compress(b"<html>"),
        "ico": save(photo(32, 32), "ICO"),
        "json": json.dumps({"error": "not found"}).encode(),
        "pdf": b"%PDF-1.7\n%\xe2\xe3",
        "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "webm": b"\x1aE\xdf\xa3\x01\0\0\0",
        "flac": b"fLaC\0\0\0\x22",
        "ogg": b"OggS\0\2",
        "mp3": b"\xff\xfb\x90\x64",
        "svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg">',
        "xml": b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
        "text": "Zugriff verweigert – nicht gefunden".encode(),
    }
    assert {name: sniff(data) for name, data in expected.items()} == {name: name for name in expected}


@pytest.mark.parametrize(
    "page",
    [
        b"<!DOCTYPE html><html>",
        b"\n\n  <!doctype HTML PUBLIC>",
        b"\xef\xbb\xbf<html lang='en'>",
        b"<!-- cached --><html>",
        b"<HTML><HEAD>",
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "x"><html xmlns="y">',
        b"<script>location='/'</script>",
        "<html>".encode("utf-16"),
    ],
)
def test_pages(page: bytes) -> None:
    assert sniff(page) == "html"


def test_nothing_is_claimed_without_a_sign() -> None:
    assert [sniff(data) for data in (b"", b"\0", b"\0" * 100, b"\xff\xd8", b"RIFF", bytes(range(256)))] == [None] * 6


@given(st.binary(max_size=200))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    answer = sniff(data)
    assert answer is None or (answer.isalnum() and answer.islower())
