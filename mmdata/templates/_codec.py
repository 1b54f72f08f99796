"""A tokenizer as templates need it: special tokens told from text, text never parsed for them, tokens with offsets."""

from __future__ import annotations

import json
import re
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from mmdata.errors import SpecError


class Tokenizer(Protocol):
    """What is asked of a tokenizer; every Hugging Face tokenizer has it."""

    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: list[str], *, add_special_tokens: bool, split_special_tokens: bool) -> Any: ...

    def convert_tokens_to_ids(self, tokens: str) -> Any: ...


@dataclass(frozen=True, slots=True)
class Run:
    """Text between two special tokens. `first` says that nothing stands before it (some tokenizers put a space there);
    `regions` are characters [start, stop), in order and disjoint, whose tokens somebody wants to know."""

    text: str
    first: bool
    regions: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """The ids of a run, and for each of its regions the tokens [start, stop) that hold one of its characters; a token
    that holds characters of two regions is the first one's."""

    ids: list[int]
    places: tuple[tuple[int, int], ...] = ()


_PROBES = ("a", " b", "The cat.\nIt  sat; é 数 ☕\n\n", "x=1\t{}")


class Codec:
    """The tokens of one tokenizer. Its own copy of the tokenizer's model is configured once, so that threads share it;
    the tokenizer itself is reconfigured by every call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            _ask(tokenizer, [])
        added: dict[int, Any] = getattr(tokenizer, "added_tokens_decoder", {})
        tokens = {str(token): (token_id, token) for token_id, token in added.items() if token.special}
        self.special: dict[str, int] = {text: token_id for text, (token_id, _) in tokens.items()}
        self.special_ids = frozenset(self.special.values()) | frozenset(tokenizer.all_special_ids)
        unknown = getattr(tokenizer, "unk_token_id", None)
        ends = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        self.unknown: int | None = None if unknown in ends else unknown
        self.control_ids = self.special_ids - {self.unknown}
        self.strips_right = {token_id for token_id, token in tokens.values() if token.rstrip}
        self.strips_left = {token_id for token_id, token in tokens.values() if token.lstrip}
        spelled = sorted(self.special, key=len, reverse=True)
        self._pattern = re.compile("(" + "|".join(map(re.escape, spelled)) + ")") if spelled else None
        models: tuple[Any, Any] = _copies(backend) if backend is not None else (None, None)
        self._first, self._inner = models
        self.faithful = self._first is not None and self._gives_back()

    def split(self, frame: str) -> list[int | str]:
        """A template's own text as ids of special tokens and the text between them.

        Overlapping spellings are resolved as tokenizers do it: leftmost, then longest.
        """
        if self._pattern is None:
            return [frame] if frame else []
        pieces = self._pattern.split(frame)
        return [self.special[piece] if at % 2 else piece for at, piece in enumerate(pieces) if piece]

    def encode(self, runs: Sequence[Run]) -> list[Tokens]:
        """The tokens of each run, special tokens that it spells out taken as plain characters. Batched."""
        if self._first is None:
            return self._encode_pieces(runs)
        found: list[Tokens | None] = [None] * len(runs)
        for first, model in ((True, self._first), (False, self._inner)):
            whole = [at for at, run in enumerate(runs) if run.first is first and not _split(run)]
            once = list({runs[at].text: None for at in whole})  # frames and prompts come again and again
            known = dict(zip(once, (e.ids for e in model.encode_batch_fast(once, False)), strict=True))
            for at in whole:
                ids = known[runs[at].text]
                found[at] = Tokens(ids, ((0, len(ids)),) * len(runs[at].regions))
            split = [at for at, run in enumerate(runs) if run.first is first and _split(run)]
            for at, encoding in zip(split, model.encode_batch([runs[i].text for i in split], False), strict=True):
                found[at] = Tokens(encoding.ids, _places(encoding, runs[at]))
        return [tokens for tokens in found if tokens is not None]

    def known(self, ids: Sequence[int], start: int, stop: int) -> list[tuple[int, int]]:
        """The stretches [first, last) of ids[start:stop] that are not unknown: nobody is to learn to say `<unk>`."""
        if self.unknown is None or self.unknown not in ids[start:stop]:
            return [(start, stop)] if stop > start else []
        edges = [start - 1, *(at for at in range(start, stop) if ids[at] == self.unknown), stop]
        return [(before + 1, after) for before, after in pairwise(edges) if after > before + 1]

    def decode(self, ids: list[list[int]]) -> list[str]:
        """The text of each list of ids, special tokens spelled out."""
        texts: list[str] = self._first.decode_batch(ids, skip_special_tokens=False)
        return texts

    def same(self, decoded: str, text: str) -> bool:
        """Whether `decoded` is what the tokenizer makes of `text`: normalised, spaces at the ends aside."""
        return decoded.strip(" ") == text.strip(" ") or decoded.strip(" ") == self.normal(text).strip(" ")

    def normal(self, text: str) -> str:
        """The text as the tokenizer normalises it (NFC, lower case), its own sign for a space undone."""
        normalizer = self._first.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text)).replace("▁", " ")

    def _gives_back(self) -> bool:
        """Whether decoding gives back what was encoded, as far as the vocabulary reaches."""
        probes = [(text, self.encode([Run(text, first=True)])[0].ids) for text in _PROBES]
        known = [(text, ids) for text, ids in probes if self.special_ids.isdisjoint(ids)]
        return bool(known) and all(self.same(self.decode([ids])[0], text) for text, ids in known)

    def _encode_pieces(self, runs: Sequence[Run]) -> list[Tokens]:
        """For tokenizers that know no offsets: cut where somebody wants to know."""
        borders = [sorted({0, len(run.text), *(at for region in run.regions for at in region)}) for run in runs]
        pieces = [run.text[a:b] for run, at in zip(runs, borders, strict=True) for a, b in pairwise(at)]
        ids = iter(_ask(self._tokenizer, pieces))
        found = []
        for run, at in zip(runs, borders, strict=True):
            tokens: list[int] = []
            offsets: list[tuple[int, int]] = []
            for a, b in pairwise(at):
                piece = next(ids)
                tokens += piece
                offsets += [(a, b)] * len(piece)
            found.append(Tokens(tokens, _bisected(offsets, run.regions)))
        return found


def _ask(tokenizer: Tokenizer, pieces: list[str]) -> list[list[int]]:
    """Ids of each piece. Raises SpecError for a tokenizer that cannot be told to take special tokens for text."""
    try:
        ids: list[list[int]] = tokenizer(pieces or ["a"], add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SpecError(
            f"tokenizer {type(tokenizer).__name__}: it has no `tokenizers` backend and does not know "
            f"`split_special_tokens`, so a text could spell special tokens: {error}"
        ) from error
    return ids[: len(pieces)]


def _split(run: Run) -> bool:
    """Whether a region begins or ends within the run."""
    return bool(run.regions) and run.regions != ((0, len(run.text)),)


def _places(encoding: Any, run: Run) -> tuple[tuple[int, int], ...]:
    """Asking for single characters is far cheaper than taking all offsets out, unless there are many."""
    if len(run.regions) > FEW:
        return _bisected(encoding.offsets, run.regions)
    places = []
    reached = 0
    length = len(encoding)
    for start, stop in run.regions:
        first = encoding.char_to_token(start) if start else 0
        last = encoding.char_to_token(stop - 1) if stop < len(run.text) else length - 1
        if first is None or last is None:  # a character that the tokenizer drops
            return _bisected(encoding.offsets, run.regions)
        while last + 1 < length and encoding.token_to_chars(last + 1)[0] < stop:  # one character, several tokens
            last += 1
        first = max(first, reached)
        reached = max(first, last + 1)
        places.append((first, reached))
    return tuple(places)


FEW = 8


def _bisected(offsets: Sequence[tuple[int, int]], regions: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    starts = [start for start, _ in offsets]
    stops = [stop for _, stop in offsets]
    places = []
    reached = 0
    for start, stop in regions:
        first = max(reached, bisect_right(stops, start))
        reached = max(first, bisect_left(starts, stop))
        places.append((first, reached))
    return tuple(places)


_codecs: weakref.WeakKeyDictionary[Any, tuple[int, Codec]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def codec_of(tokenizer: Tokenizer, *, renew: bool = False) -> Codec:
    """The codec of a tokenizer, made when it is first asked for; `renew` looks whether tokens were added since."""
    with _lock:
        size, codec = _codecs.get(tokenizer, (0, None))
        if codec is None or (renew and size != len(getattr(tokenizer, "added_tokens_decoder", ()))):
            codec = Codec(tokenizer)
            _codecs[tokenizer] = (len(getattr(tokenizer, "added_tokens_decoder", ())), codec)
    return codec


def _copies(backend: Any) -> tuple[Any, Any]:
    """Two models of one backend: for the beginning of a text, and for text after a special token.

    They are the same unless the tokenizer puts a space before the very first word only. The post-processor goes:
    all it could add here is offsets without their spaces, with which no token can be placed.
    """
    import tokenizers

    settings = backend.to_str()
    first = tokenizers.Tokenizer.from_str(settings)
    inner = first
    if _FIRST.search(settings):
        inner = tokenizers.Tokenizer.from_str(json.dumps(json.loads(settings, object_hook=_never_prepend)))
    for model in (first, inner):
        model.post_processor = None
        model.no_padding()
        model.no_truncation()
        model.encode_special_tokens = True
    return first, inner


_FIRST = re.compile(r'"prepend_scheme"\s*:\s*"first"')


def _never_prepend(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "prepend_scheme": "never"} if part.get("prepend_scheme") == "first" else part
