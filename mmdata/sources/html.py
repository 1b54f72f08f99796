"""HTML pages as documents: their texts and pictures in the order in which one reads them."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote, urljoin

import fsspec

from mmdata.errors import DataError
from mmdata.optout import WISHES, Wish, refusal, robots_tags
from mmdata.registry import register
from mmdata.sources import _growth
from mmdata.sources._paths import inline, within
from mmdata.sources._tables import printable
from mmdata.spec import InputPath, Record, Source, SourceSpec, runtime
from mmdata.types import Drop, Media, Origin, Sample, Text

LONGEST = 1 << 24
"""Bytes of the longest page that is read."""
SUFFIXES = (".html", ".htm", ".xhtml")
SILENT = ("script", "style", "noscript", "template", "svg", "math", "iframe", "object", "textarea", "select")
"""What is no text to be read, whatever the user wants."""
_VOID = ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr")
_BLOCKS = (
    *("address", "article", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset", "figure"),
    *("figcaption", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "li", "main", "nav", "ol"),
    *("p", "pre", "section", "summary", "table", "td", "th", "tr", "ul", "aside"),
)
_UNSEEN = {("display", "none"), ("visibility", "hidden"), ("visibility", "collapse")}
_ENDS = {
    **{tag: {"p"} for tag in sorted({*_BLOCKS} - {"body", "caption"})},
    **{tag: {"p", "dd", "dt"} for tag in ("dd", "dt")},
    **{tag: {"p", "td", "th"} for tag in ("td", "th")},
    "li": {"p", "li"},
    "tr": {"p", "td", "th", "tr"},
}
"""Which open elements the start of another ends, that may do without an end tag,"""
_HOLDS = {"ul", "ol", "menu", "dl", "table", "button"}
"""unless one of these lies between."""
_DEEP = 64
"""How many open elements are looked through for one that ends so."""
_AGENT = "mmdata"
_SPACE = re.compile(r"[ \t\r\n\f]+")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.IGNORECASE)


@register("source", "html")
class Html(SourceSpec):
    """A record for each page below a folder, sorted by path: its texts (role `document`) and pictures in reading order,
    blocks apart by an empty line; `title`, `lang` and the pictures' alternative texts (`alts`, in their order) travel
    in the sample's JSON. What its own attributes hide (`hidden`, `style="display: none"` or `"visibility: hidden"`) is
    left out, and so are pictures whose attributes say that they are a pixel. A page of which a picture cannot be had
    is dropped as a whole."""

    kind: Literal["html"] = "html"
    path: InputPath = runtime()
    """The folder; local or any fsspec URL."""
    base: str | None = None
    """The address that the folder was saved from (`https://example.org/docs/`): pictures are fetched from there.
    Default: they are files of the folder, and a path that leads out of it is refused."""
    skip: tuple[str, ...] = ("nav", "footer", "aside", "form", "header", "button", "dialog")
    """Elements that are left out with all they hold."""
    images: bool = True
    """Whether pictures are taken; else pages are texts."""
    respect: tuple[Wish, ...] | None = None
    """Opt-outs that are honoured in a page's `<meta name="robots">` and `<meta name="tdm-reservation">`: such a page
    ends as `opted_out`, for `noimageai` and `noimageindex` if a picture of it would be taken. Null: all that
    `fetch.respect.headers` knows."""

    def searched(self) -> tuple[str, ...]:
        return (self.path,)

    def open(self) -> Source:
        return _Pages(self)


class _Pages:
    def __init__(self, spec: Html) -> None:
        self._spec = spec
        self._fs, root = fsspec.core.url_to_fs(spec.path)
        self._root = root.rstrip("/")
        if not self._fs.isdir(self._root):
            raise DataError("source_unreadable", f"{spec.path}: not a folder")
        found = {path[len(self._root) + 1 :]: info for path, info in self._fs.find(self._root, detail=True).items()}
        self._sizes = {
            name: int(found[name]["size"] or 0)
            for name in sorted(found)
            if PurePosixPath(name.lower()).suffix in SUFFIXES
        }
        self._names = list(self._sizes)
        if not self._names:
            raise DataError("source_empty", f"{spec.path}: no file ends in one of {', '.join(SUFFIXES)}")
        self.arrange(())

    def inputs(self) -> list[dict[str, Any]]:
        return [{"name": ".", "pages": len(batch), **_growth.listing(batch)} for batch in self._batches]

    def listings(self) -> list[_growth.Sizes]:
        return self._batches

    def arrange(self, before: Sequence[_growth.Sizes]) -> None:
        self._batches = _growth.batches(self._sizes, before)
        self._names = [name for batch in self._batches for name in sorted(batch)]

    def continues(self, before: Sequence[Mapping[str, Any]]) -> None:
        _growth.listings_continue(before, self.inputs())

    def count(self) -> int | None:
        return len(self._names)

    def records(self, start: int = 0, stop: int | None = None) -> Iterator[Record]:
        for row in range(start, len(self._names) if stop is None else min(stop, len(self._names))):
            name = self._names[row]
            empty = Sample(key=f"{row:09d}", parts=(), origin=Origin(uri=printable(name), row=0))
            try:
                page = self._page(name)
                if refused := self._opt_out(page):
                    drop = Drop(reason=refused, detail=f"{printable(name)}: {page.wishes()}", state="opted_out")
                    yield Record(row=row, sample=empty, drop=drop)
                    continue
                yield Record(row=row, sample=self._sample(empty, page, name))
            except DataError as error:
                drop = Drop(
                    reason=error.reason,
                    detail=f"{printable(name)}: {printable(error.detail)}",
                    state="failed_permanent",
                )
                yield Record(row=row, sample=empty, drop=drop)

    def _page(self, name: str) -> Page:
        if self._sizes[name] > LONGEST:
            raise DataError("too_large", f"{self._sizes[name]:,} bytes, {LONGEST:,} are the most")
        try:
            data: bytes = self._fs.cat_file(f"{self._root}/{name}")
        except OSError as error:
            raise DataError("source_unreadable", f"{self._root}/{name}: {error}") from error
        return read(_decoded(data), (*SILENT, *self._spec.skip))

    def _opt_out(self, page: Page) -> str | None:
        """The reason of the first wish of a page that is honoured."""
        honoured = WISHES if self._spec.respect is None else self._spec.respect
        if not (self._spec.images and any(isinstance(part, dict) for part in page.parts)):
            honoured = tuple(wish for wish in honoured if not wish.startswith("noimage"))
        return refusal(robots_tags(page.robots, _AGENT), page.reserved, honoured)

    def _sample(self, empty: Sample, page: Page, name: str) -> Sample:
        parts: list[Media | Text] = []
        alts: list[str] = []
        for item in page.parts:
            if isinstance(item, str):
                parts.append(Text(text=printable(item), role="document"))
            elif self._spec.images:
                parts.append(self._image(item["src"], page.base, name))
                alts.append(printable(item["alt"]))
        if not self._spec.images:
            parts = [Text(text="\n\n".join(part.text for part in parts if isinstance(part, Text)), role="document")]
        if not any(isinstance(part, Media) or part.text for part in parts):
            raise DataError("no_parts", "neither a text nor a picture")
        meta = {"title": printable(page.title), "lang": printable(page.lang), "alts": alts if any(alts) else None}
        return replace(empty, parts=tuple(parts), meta={key: value for key, value in meta.items() if value})

    def _image(self, src: str, base: str, name: str) -> Media:
        if src.startswith("data:"):
            return Media(kind="image", data=inline(src))
        try:
            if self._spec.base is not None or "://" in base:
                address = urljoin(urljoin(f"{(self._spec.base or '').rstrip('/')}/{name}", base), src)
                return Media(kind="image", uri=within(self._root, address))
            if src.startswith("//"):
                return Media(kind="image", uri=f"https:{src}")
        except ValueError as error:  # brackets that are no address
            raise DataError("bad_url", f"{src[:200]!r}: {error}") from error
        if "://" in src:
            return Media(kind="image", uri=within(self._root, src))
        path = unquote(src.partition("#")[0].partition("?")[0])
        place = path if path.startswith("/") else f"{PurePosixPath(name).parent}/{base}{path}"
        root = self._fs.unstrip_protocol(self._root).removeprefix("file://")
        return Media(kind="image", uri=within(root, place.lstrip("/")))


class Page(HTMLParser):
    """What a page holds: `parts` are blocks of text, and pictures (`src`, `alt`), in the order of the page; `robots`
    and `reserved` what it says to robots and of a reservation, wherever it says so."""

    def __init__(self, skip: tuple[str, ...]) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str | dict[str, str]] = []
        self.title = self.lang = self.base = ""
        self.robots: list[str] = []
        self.reserved: list[str] = []
        self._skip = frozenset(skip)
        self._open: list[str] = []
        self._opened: Counter[str] = Counter()
        self._shown: int | None = None
        """How many elements were open when one that is skipped began."""
        self._text: list[str] = []
        self._in_title = False
        self._pre = 0

    def wishes(self) -> str:
        """What it says of its use, in one line."""
        said = [f"robots: {', '.join(self.robots)}"] * bool(self.robots)
        said += [f"tdm-reservation: {', '.join(self.reserved)}"] * bool(self.reserved)
        return printable(f"meta {'; '.join(said)}")[:200]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "meta":
            self._listen(given)
        hides = tag in self._skip or _hidden(tag, given)
        if tag not in _VOID:
            self._begin(tag, hides)
        if tag == "html":
            self.lang = given.get("lang", "")
        if self._shown is not None or (tag in _VOID and _hidden(tag, given)):
            return
        if tag == "title":
            self._in_title = True
        elif tag == "base" and not self.base:
            self.base = given.get("href", "").strip()
        elif tag == "br":
            self._text.append("\n")
        elif tag == "img":
            self._picture(given)
        elif tag in _BLOCKS:
            self.flush()
            self._pre += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self._silent and tag not in SILENT:
            return
        seen = self._end(tag) if self._opened[tag] else self._shown is None
        if not seen:
            return
        if tag == "title":
            self._in_title = False
        elif tag in _BLOCKS:
            self.flush()
            self._pre = max(0, self._pre - (tag == "pre"))

    @property
    def _silent(self) -> bool:
        """Whether what comes is no elements of the page's: none of it is opened, and ends nothing outside."""
        return bool(self._open) and self._open[-1] in SILENT

    def _begin(self, tag: str, hides: bool) -> None:
        """Open an element; those that it ends by its start end first."""
        if self._silent and tag not in SILENT:
            return
        ended = None
        for last in itertools.islice(reversed(self._open), _DEEP) if tag in _ENDS else ():
            if last in _HOLDS or last in SILENT:
                break
            ended = last if last in _ENDS[tag] else ended
        if ended is not None:
            self._end(ended)
        if hides and self._shown is None:
            self._shown = len(self._open)
        self._open.append(tag)
        self._opened[tag] += 1

    def _end(self, tag: str) -> bool:
        """Close an element that is open, and with it what was opened within it and never closed; answers whether it
        was to be seen."""
        while (last := self._open.pop()) != tag:
            self._opened[last] -= 1
        self._opened[tag] -= 1
        seen = self._shown is None or len(self._open) < self._shown
        if self._shown is not None and len(self._open) <= self._shown:
            self._shown = None
        return seen

    def _listen(self, given: dict[str, str]) -> None:
        name = given.get("name", "").strip().lower()
        if name in ("robots", _AGENT):
            self.robots.append(given.get("content", ""))
        elif name == "tdm-reservation":
            self.reserved.append(given.get("content", ""))

    def handle_data(self, data: str) -> None:
        if self._in_title and self._shown is None:
            self.title = _SPACE.sub(" ", self.title + data).strip()
        elif self._shown is None:
            self._text.append(data if self._pre else _SPACE.sub(" ", data))

    def flush(self) -> None:
        """End the block of text that is being read."""
        lines = (line if self._pre else _SPACE.sub(" ", line).strip() for line in "".join(self._text).split("\n"))
        text = "\n".join(lines).strip("\n" if self._pre else None)
        self._text = []
        if text.strip():
            if self.parts and isinstance(self.parts[-1], str):
                self.parts[-1] += f"\n\n{text}"
            else:
                self.parts.append(text)

    def _picture(self, given: dict[str, str]) -> None:
        sources = (given.get(name, "").strip() for name in ("data-src", "data-original", "data-lazy-src", "src"))
        src = next((found for found in sources if found), "") or _of_set(
            given.get("srcset", given.get("data-srcset", ""))
        )
        pixel = any(given.get(side, "").strip().removesuffix("px") in ("0", "1") for side in ("width", "height"))
        if src and not pixel:
            self.flush()
            self.parts.append({"src": src, "alt": given.get("alt", "").strip()})


def read(text: str, skip: tuple[str, ...] = SILENT) -> Page:
    """The page that an HTML text is, however badly it is written.

    >>> read("<title>T</title><p>One<br>two <b>three</b><img src=a.png alt=A><script>x</script>four").parts
    ['One\\ntwo three', {'src': 'a.png', 'alt': 'A'}, 'four']
    """
    page = Page(skip)
    page.feed(text)
    page.close()
    page.flush()
    return page


def _hidden(tag: str, given: dict[str, str]) -> bool:
    """Whether an element's own attributes keep it from the eye. `aria-hidden` does not, `until-found` is there to be
    found, and a whole page that is hidden is shown by its script.

    >>> [_hidden("p", {"hidden": ""}), _hidden("p", {"style": "color: red; DISPLAY : none !important"})]
    [True, True]
    >>> [_hidden("p", {"style": "display: none; display: block"}), _hidden("body", {"style": "display: none"})]
    [False, False]
    """
    if tag in ("html", "body"):
        return False
    if given.get("hidden", "until-found").strip().lower() != "until-found":
        return True
    style = given.get("style", "").lower()
    if "none" not in style and "visibility" not in style:
        return False
    pairs = (declared.partition("!")[0].partition(":") for declared in style.split(";"))
    return not _UNSEEN.isdisjoint({name.strip(): value.strip() for name, _, value in pairs}.items())


def _of_set(srcset: str) -> str:
    """The largest picture of a `srcset`.

    >>> _of_set("a.jpg 1x, b.jpg 2x"), _of_set("a.jpg 480w, b.jpg 320w"), _of_set("")
    ('b.jpg', 'a.jpg', '')
    """
    best, most = "", -1.0
    for option in re.split(r",\s+", srcset.strip()):
        url, _, size = option.strip().partition(" ")
        try:
            value = float(size.strip()[:-1] or 1)
        except ValueError:
            value = 0.0
        if url and value > most:
            best, most = url, value
    return best


def _decoded(data: bytes) -> str:
    """The text of a page: by its byte order mark, by the character set that it names, else UTF-8. Raises DataError
    `text_not_utf8` for a page that names none that is known and is not UTF-8; of others single bytes may be wrong."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    named = _CHARSET.search(data[:4096])
    if named:
        with contextlib.suppress(LookupError):
            return data.decode(named[1].decode(), "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("text_not_utf8", f"it names no character set that is known, and {error}") from error
