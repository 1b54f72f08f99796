"""From what a table calls a URL to what goes on the wire, changing as little as possible."""

from __future__ import annotations

import re
from urllib.parse import quote, urljoin

from yarl import URL

from mmdata.fetch.failure import FetchError

Origin = tuple[str, str, int]
"""Scheme, lower-case host, port."""

_LEGAL = r"A-Za-z0-9\-._~!$&'()*+,;=:@%/"
# Most URLs are well-formed already and are sent byte for byte: re-quoting would break signed ones.
_CLEAN = re.compile(rf"https?://[a-z0-9.\-]+(?::[0-9]{{1,5}})?/[{_LEGAL}]*(?:\?[{_LEGAL}?]*)?")
_DOTS = re.compile(r"/\.|%2e", re.IGNORECASE)
_PARTS = re.compile(r"(https?)://([^/?#\\]*)([^?#]*)(\?[^#]*)?(?:#.*)?", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"[A-Za-z0-9._\-:%]+")  # IDNA mapping can yield more than that, even spaces.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_IGNORED = str.maketrans("", "", "\t\r\n")
_SAFE = "-._~!$&'()*+,;=:@%/"


def parse_url(text: str) -> URL:
    """The http(s) URL in `text`: illegal characters quoted, dot segments resolved, host lower-case IDNA, no
    fragment; everything else as it was, percent escapes included.

    Raises FetchError `bad_scheme` or `bad_url`.

    >>> str(parse_url(" http://Exämple.org/a b/../ü%2F?q=%7E|#top"))
    'http://xn--exmple-cua.org/%C3%BC%2F?q=%7E%7C'
    """
    text = text.strip().translate(_IGNORED)
    if len(text) > 8000:
        raise FetchError("bad_url", f"{len(text)} characters")
    try:
        if _CLEAN.fullmatch(text) and not _DOTS.search(text):
            url = URL(text, encoded=True)
        else:
            url = _tidy(text)
        if url.port and _HOST.fullmatch(url.raw_host or ""):
            return url
    except ValueError as error:
        raise FetchError("bad_url", f"{text[:200]!r}: {error}") from error
    raise FetchError("bad_url", f"no usable host in {text[:200]!r}")


def _tidy(text: str) -> URL:
    parts = _PARTS.fullmatch(text)
    if parts is None:
        scheme = _SCHEME.match(text)
        if scheme and scheme[1].lower() not in ("http", "https"):
            raise FetchError("bad_scheme", f"{scheme[1]!r} is not http or https")
        raise FetchError("bad_url", repr(text[:200]))
    scheme_name, authority, path, query = parts.groups(default="")
    if re.search(r"[\s<>^`{|}\"]", authority):
        raise FetchError("bad_url", f"illegal character in the host of {text[:200]!r}")
    origin = URL(f"{scheme_name.lower()}://{authority}/")  # Lower case, IDNA, and the checks of the port.
    path = re.sub("%2e", ".", _quoted(path), flags=re.IGNORECASE)
    return URL(f"{str(origin).rstrip('/')}{_without_dots(path)}{_quoted(query, '?')}", encoded=True)


def _quoted(text: str, more: str = "") -> str:
    # Surrogates stand for the raw bytes of a header that was not UTF-8.
    return quote(text.encode("utf-8", "surrogateescape"), safe=_SAFE + more)


def _without_dots(path: str) -> str:
    """Resolve `.` and `..` (RFC 3986, 5.2.4), so that robots rules are asked about the path that is meant."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for number, segment in enumerate(segments):
        last = number == len(segments) - 1
        if segment == ".." and kept:
            kept.pop()
        if segment not in (".", ".."):
            kept.append(segment)
        elif last:
            kept.append("")
    return "/" + "/".join(kept)


def join_url(base: URL, location: str) -> URL:
    """Where a `Location` header found at `base` points to. Raises FetchError `bad_scheme` or `bad_redirect`."""
    try:
        target = urljoin(str(base), location.strip())
    except ValueError as error:
        raise FetchError("bad_redirect", f"Location {location[:200]!r}: {error}") from error
    try:
        return parse_url(target)
    except FetchError as error:
        if error.reason == "bad_scheme":
            raise
        raise FetchError("bad_redirect", f"Location {location[:200]!r}: {error.detail}") from error


def origin_of(url: URL) -> Origin:
    """Whose robots.txt applies, and what is up or down as one."""
    return url.scheme, (url.raw_host or "").lower().rstrip("."), url.port or 0


def host_of(origin: Origin) -> str:
    """The host whose patience is spent: both ports of the web count as one, a port of its own as another.

    >>> host_of(origin_of(URL("https://Example.org/a"))), host_of(("http", "example.org", 8080))
    ('example.org', 'example.org:8080')
    """
    _, host, port = origin
    return host if port in (80, 443) else f"{host}:{port}"
