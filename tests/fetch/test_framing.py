"""Where heads and bodies end, however they are cut, and what is refused; against bodies that were framed here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.fetch.failure import FetchError
from mmdata.fetch.framing import HEAD_BYTES, Chunks, Head, parse_head, split_head


def head(*lines: str, status: str = "HTTP/1.1 200 OK") -> Head:
    return parse_head("\r\n".join([status, *lines]).encode())


def refused(*lines: str, status: str = "HTTP/1.1 200 OK") -> bool:
    with pytest.raises(FetchError) as caught:
        head(*lines, status=status)
    return (caught.value.reason, caught.value.state) == ("bad_response", "failed_permanent")


def test_a_head_ends_at_its_first_empty_line() -> None:
    for end in (b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"):
        data = b"HTTP/1.1 200 OK\r\nA: b" + end + b"body\r\n\r\n"
        assert split_head(data) == (b"HTTP/1.1 200 OK\r\nA: b", b"body\r\n\r\n")
    whole = b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    assert all(split_head(whole[:cut]) is None for cut in range(len(whole)))


@pytest.mark.parametrize("data", [b"SSH-2.0", b"<html>", b"HTTX", b"\0", b"HTTP/1.1 200 OK\r\nA: " + bytes(HEAD_BYTES)])
def test_what_is_no_head_is_refused_before_it_ends(data: bytes) -> None:
    with pytest.raises(FetchError, match="bad_response"):
        split_head(data)


def test_headers_are_read_as_they_were_meant() -> None:
    told = head(
        "A : b ", "X-Robots-Tag:\tnoai", "Folded: one", "  two", "\tthree", "x-robots-tag: bot: noindex", "Empty:"
    )
    assert told.headers["a"] == "b"
    assert told.headers.getall("X-ROBOTS-TAG") == ["noai", "bot: noindex"]
    assert (told.headers["folded"], told.headers["empty"]) == ("one two three", "")
    assert (
        parse_head(b"HTTP/1.1 302 F\xc3\xbcnd\nLocation: /\xff").headers["Location"].encode(errors="surrogateescape")
        == b"/\xff"
    )


@pytest.mark.parametrize(
    ("status", "lines", "length", "chunked", "lasting"),
    [
        ("HTTP/1.1 200 OK", ["Content-Length: 5"], 5, False, True),
        ("HTTP/1.1 200", ["Content-Length: 5, 5", "content-length: 5"], 5, False, True),
        ("HTTP/1.1 200 OK", ["Content-Length: 5", "Connection: foo, Close"], 5, False, False),
        ("HTTP/1.0 200 OK", ["Content-Length: 5"], 5, False, False),
        ("HTTP/1.0 200 OK", ["Content-Length: 5", "Connection: Keep-Alive"], 5, False, True),
        ("HTTP/1.1 200 OK", ["Transfer-Encoding: Chunked"], None, True, True),
        ("HTTP/1.1 200 OK", [], None, False, False),
        ("HTTP/1.1 204 No Content", ["Transfer-Encoding: chunked"], 0, False, True),
        ("HTTP/1.1 304 Not Modified", ["Content-Length: 500"], 0, False, True),
        ("HTTP/1.1 103 Early Hints", ["Link: x"], 0, False, True),
    ],
)
def test_how_a_body_ends(status: str, lines: list[str], length: int | None, chunked: bool, lasting: bool) -> None:
    told = head(*lines, status=status)
    assert (told.length, told.chunked, told.lasting) == (length, chunked, lasting)


def test_what_could_be_read_in_two_ways_is_refused() -> None:
    assert refused("Content-Length: 5", "Content-Length: 6")
    assert refused("Content-Length: 5", "Transfer-Encoding: chunked")
    assert refused("Transfer-Encoding: gzip, chunked")
    for length in ("-5", "+5", "0x5", "5 5", "", "٥", "9" * 19):
        assert refused(f"Content-Length: {length}"), length
    for line in ("no colon", ": no name", "a b: c", "nul: \0", "return: a\rb"):
        assert refused(line), line
    for status in (
        "HTTP/1.1 2000 OK",
        "HTTP/1.1 OK",
        "HTTP/1 200 OK",
        "HTTP/1.1 099 OK",
        "HTTP/1.1 200 O\0K",
        "HTTP/1.1200 OK",
    ):
        assert refused(status=status), status


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    extension=st.sampled_from(["", ";x=y", ' ; name="a b"']),
    trailer=st.sampled_from(["", "A: b\r\n"]),
    cuts=st.lists(st.integers(0, 400), max_size=8),
    rest=st.binary(max_size=10),
)
def test_chunks_are_put_together_however_they_are_cut(
    pieces: list[bytes], extension: str, trailer: str, cuts: list[int], rest: bytes
) -> None:
    sent = b"".join(f"{len(piece):x}{extension}\r\n".encode() + piece + b"\r\n" for piece in pieces)
    sent += f"0\r\n{trailer}\r\n".encode()
    at = sorted({min(cut, len(sent)) for cut in cuts} - {len(sent)})
    chunks = Chunks()
    found = []
    for first, last in zip([0, *at], [*at, None], strict=True):
        assert not chunks.complete
        found += chunks.feed(sent[first:last] + (rest if last is None else b""))
    assert (b"".join(found), chunks.complete, chunks.rest) == (b"".join(pieces), True, rest)


@pytest.mark.parametrize(
    "data", [b"x\r\n", b"-1\r\nab", b"\r\n", b"3\r\nhello\r\n", b"2?\x08\r\n", b"f" * 16 + b"\r\n", b"1" * (1 << 14)]
)
def test_broken_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(FetchError, match="bad_response"):
        Chunks().feed(data)
