"""Numbers and hostile strings as people read them. Nothing here marks a string as safe: the template escapes all."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from urllib.parse import urlsplit

STATE_NAMES = {
    "ok": "kept",
    "filtered": "filtered",
    "duplicate": "duplicate",
    "failed_transient": "failed, may work later",
    "failed_permanent": "failed for good",
    "opted_out": "opted out",
}


def count(number: float) -> str:
    """
    >>> count(1234567)
    '1,234,567'
    """
    return f"{number:,.0f}"


def share(part: float, whole: float) -> str:
    """A percentage that never rounds something to nothing, or a part to the whole.

    >>> share(1, 3), share(1, 100_000), share(99_999, 100_000), share(0, 5), share(5, 5), share(0, 0)
    ('33.3%', '<0.1%', '>99.9%', '0%', '100%', '0%')
    """
    if not part or not whole:
        return "0%"
    if part == whole:
        return "100%"
    percent = 100 * part / whole
    return "<0.1%" if percent < 0.1 else ">99.9%" if percent > 99.9 else f"{percent:.1f}%"


def size(number: float) -> str:
    """Bytes.

    >>> size(512), size(2048), size(3_500_000), size(10 * 2**30)
    ('512 B', '2 KiB', '3.3 MiB', '10 GiB')
    """
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if number >= unit:
            value = number / unit
            return f"{value:.0f} {name}" if value >= 10 or value == int(value) else f"{value:.1f} {name}"
    return f"{number:.0f} B"


def seconds(number: float) -> str:
    """A time.

    >>> seconds(0.0042), seconds(0.25), seconds(7.25), seconds(75), seconds(7384)
    ('4.2 ms', '250 ms', '7.2 s', '1 min 15 s', '2 h 3 min')
    """
    if number < 1:
        milli = number * 1000
        return f"{milli:.2g} ms" if milli < 10 else f"{milli:.0f} ms"
    if number < 60:
        return f"{number:.3g} s" if number >= 10 else f"{number:.2g} s"
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ratio(number: float) -> str:
    """Width over height, as the larger over 1.

    >>> ratio(1.0), ratio(1.5), ratio(0.25), ratio(16 / 9)
    ('1:1', '1.5:1', '1:4', '1.78:1')
    """
    return f"{number:.3g}:1" if number >= 1 else f"1:{1 / number:.3g}" if number else "0"


def rate(number: float) -> str:
    """
    >>> rate(1234.5), rate(56.78), rate(0.5)
    ('1,234', '56.8', '0.5')
    """
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def hertz(number: float) -> str:
    """A sample rate.

    >>> hertz(16000), hertz(44100)
    ('16 kHz', '44.1 kHz')
    """
    return f"{number / 1000:.3g} kHz"


def clock(number: float) -> str:
    """A time in a video or sound.

    >>> clock(0.5), clock(75.25), clock(3725)
    ('0:00.5', '1:15.2', '1:02:05')
    """
    if number >= 3600:
        whole = int(number)
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{int(number) // 60}:{int(number) % 60:02}.{int(number * 10) % 10}"


def moment(iso: str) -> str:
    """A time stamp to the minute, with its zone; what is none is shown as it is.

    >>> moment("2026-01-02T03:04:05Z"), moment("soon")
    ('2026-01-02 03:04 UTC', 'soon')
    """
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return visible(iso, 40)


def visible(text: str, most: int) -> str:
    """At most `most` characters, control characters shown as their pictures, line breaks as spaces.

    Long runs of combining marks are cut, so that one caption cannot draw over another.

    >>> visible("a\\x00b\\nc", 10), visible("x" * 20, 8), visible("e" + chr(0x301) * 9, 20) == "e" + chr(0x301) * 3
    ('a␀b c', 'xxxxxxx…', True)
    """
    out: list[str] = []
    marks = 0
    for character in text:
        if len(out) >= most:
            return "".join(out[: most - 1]).rstrip() + "…"
        code = ord(character)
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks > 3:
            continue
        if character in "\n\r\t\u2028\u2029":
            out.append(" ")
        elif code < 32:
            out.append(chr(0x2400 + code))
        elif code == 127 or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000:
            out.append("\ufffd")
        else:
            out.append(character)
    return "".join(out)


def link(uri: str | None) -> str | None:
    """The address if it may be linked to: http(s), with a host, and no blank, quote or control character in it.

    >>> link("https://example.org/a.jpg"), link("javascript:alert(1)"), link("http://a/ b"), link("https://[")
    ('https://example.org/a.jpg', None, None, None)
    """
    if not uri or len(uri) > 2000 or any(c <= " " or c in "\"'<>`\\\x7f" for c in uri):
        return None
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    return uri if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc else None
