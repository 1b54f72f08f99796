"""Samples to token ids, places of media and trained spans: one batched call of the tokenizer for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from mmdata.errors import DataError
from mmdata.templates._check import Answer, check
from mmdata.templates._codec import Codec, Run, Tokenizer, Tokens
from mmdata.templates._pairs import expanded, is_pair
from mmdata.templates._skeleton import OUTSIDE, Atom, Core, Frame, Gap, Place, Special, shape
from mmdata.templates._template import Bound, Template
from mmdata.templates._turns import Message, messages
from mmdata.templates.marks import marks
from mmdata.types import Media, Sample, Span, SpanKind, Text

MEDIUM = -1
"""Stands in `Encoded.ids` where a medium goes; a family replaces it by that medium's placeholders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """A sample as tokens, media not expanded yet: each is one `MEDIUM` in `ids`, in the order of `media`. Spans are
    in order and disjoint."""

    ids: list[int]
    spans: tuple[Span, ...]
    media: tuple[Media, ...]
    breaks: tuple[int, ...] = ()
    """Where a sample of two answers begins anew with the second one."""


@dataclass(frozen=True, slots=True)
class _Region:
    """Trained characters [start, stop) of a run."""

    start: int
    stop: int
    kind: SpanKind
    turn: int


@dataclass(slots=True)
class _Stretch:
    """Text between two special tokens or media, and what of it is trained."""

    text: str
    first: bool
    regions: list[_Region] = field(default_factory=list)

    def run(self) -> Run:
        return Run(self.text, self.first, tuple((region.start, region.stop) for region in self.regions))


@dataclass(frozen=True, slots=True)
class _Token:
    """One id that is no text: a special token, or a medium (`medium` is its number)."""

    id: int
    turn: int = OUTSIDE
    trained: bool = False
    stop: bool = False
    medium: int | None = None


@dataclass(slots=True)
class _Draft:
    """A sample before its texts are tokens."""

    sample: Sample
    pieces: list[_Stretch | _Token] = field(default_factory=list)
    media: tuple[Media, ...] = ()
    turns: tuple[int, ...] = ()


def encode(samples: Sequence[Sample], tokenizer: Tokenizer, template: Template) -> list[Encoded | DataError]:
    """Token ids and trained spans of each sample, or the reason why it has none.

    All texts are tokenised in one call, without special tokens and with any that the text spells out taken as
    plain characters; text between two special tokens is one piece, as in a chat that is tokenised whole. Every mask is
    checked against its messages (`check`). Reasons: `template_role` (a role that the template does not know),
    `template_refused`, `template_text`, `template_media` (the chat template raises, loses a text, has no place for a
    medium), `text_special` (a text that yields a special token all the same; the one of what a vocabulary does not
    know is none, and never trained), `label_mismatch` (a mask that is not what the messages say), `no_target` (nothing
    to train on), `pair_incomplete` (one of two answers is missing).

    Of a sample with a `chosen` and a `rejected` answer only the chosen one is seen; where `template.pairs`, both are
    encoded, each after the prompt with its media, as one sequence with a break in it.
    """
    if not any(map(is_pair, samples)):
        return _encode(samples, tokenizer, template)
    wanted = expanded(samples, both=template.pairs)
    found = iter(_encode([each for some in wanted if isinstance(some, list) for each in some], tokenizer, template))
    return [_joined([next(found) for _ in some]) if isinstance(some, list) else some for some in wanted]


def _joined(found: Sequence[Encoded | DataError]) -> Encoded | DataError:
    """Sequences after each other as one, or what is wrong with the first that has something wrong."""
    ids, spans, media, breaks = list[int](), list[Span](), list[Media](), list[int]()
    for each in found:
        if isinstance(each, DataError):
            return each
        breaks += [len(ids)] if ids else []
        spans += [replace(span, start=span.start + len(ids), stop=span.stop + len(ids)) for span in each.spans]
        ids += each.ids
        media += each.media
    return Encoded(ids=ids, spans=tuple(spans), media=tuple(media), breaks=tuple(breaks))


def _encode(samples: Sequence[Sample], tokenizer: Tokenizer, template: Template) -> list[Encoded | DataError]:
    bound = template.bind(tokenizer)
    codec = bound.codec
    drafts: list[_Draft | DataError] = []
    for sample in samples:
        try:
            drafts.append(_draft(sample, template, bound))
        except DataError as error:
            drafts.append(error)
    stretches = [
        piece for draft in drafts if isinstance(draft, _Draft) for piece in draft.pieces if isinstance(piece, _Stretch)
    ]
    tokens = iter(codec.encode([stretch.run() for stretch in stretches]))
    results: list[Encoded | DataError] = []
    answers: list[Answer] = []
    for at, draft in enumerate(drafts):
        if isinstance(draft, DataError):
            results.append(draft)
            continue
        encoded, found, problem = _assemble(draft, at, tokens, codec, template)
        results.append(problem or encoded)
        answers += [] if problem else found
    for at, mismatch in check(answers, codec).items():
        results[at] = mismatch
    return results


def _draft(sample: Sample, template: Template, bound: Bound) -> _Draft:
    parts: tuple[Text | Media, ...] = sample.parts
    if template.system is not None and not any(isinstance(part, Text) and part.role == "system" for part in parts):
        parts = (Text(text=template.system, role="system", train=template.train_on == "all"), *parts)
    talk = messages(parts)
    trained = _trained(talk, template)
    outline, cores = shape(talk)
    atoms = bound.skeleton(outline)
    bos = bound.layout.bos
    draft = _Draft(sample, media=tuple(part for part in parts if isinstance(part, Media)), turns=trained)
    if bos is not None and not (atoms and isinstance(atoms[0], Special) and atoms[0].id == bos):
        draft.pieces.append(_Token(bos))
    wanted = _wanted(atoms, cores, trained, everything=template.train_on == "all")
    stretch: _Stretch | None = None
    for at, (atom, learned) in enumerate(zip(atoms, wanted, strict=True)):
        if isinstance(atom, Place):
            before, after = template.around.get(draft.media[atom.medium].kind, ("", ""))
            if before and stretch is None:
                stretch = _Stretch("", first=at == 0)
                draft.pieces.append(stretch)
            if stretch is not None:
                stretch.text += before
            draft.pieces.append(_Token(MEDIUM, medium=atom.medium))
            stretch = _Stretch(after, first=False) if after else None
            draft.pieces += [stretch] if stretch is not None else []
            continue
        if isinstance(atom, Special):
            draft.pieces.append(_Token(atom.id, atom.turn, learned, atom.stop))
            stretch = None
            continue
        prompt_ends = isinstance(atom, Gap) and atom.turn in trained and at > 0 and _flips(atoms, at, cores)
        if stretch is None or prompt_ends:
            stretch = _Stretch("", first=at == 0)
            draft.pieces.append(stretch)
        text = cores[atom.core].text if isinstance(atom, Gap) else atom.text
        if learned:
            _train(stretch, text, _kind(atom, cores, template), atom.turn)
        stretch.text += text
    _strip(draft.pieces, bound.codec)
    return draft


def _wanted(atoms: Sequence[Atom], cores: Sequence[Core], trained: Sequence[int], *, everything: bool) -> list[bool]:
    """Which atoms are trained: a text as it says itself, what lies in an answer like the text before it (the first
    text of the answer, where there is none)."""
    first: dict[int, bool] = {}
    for atom in atoms:
        if isinstance(atom, Gap):
            first.setdefault(atom.turn, cores[atom.core].train)
    last = dict(first)
    wanted = []
    for atom in atoms:
        if isinstance(atom, Place):
            wanted.append(False)
            continue
        if isinstance(atom, Gap):
            last[atom.turn] = cores[atom.core].train
        if atom.turn == OUTSIDE:
            wanted.append(everything and (not isinstance(atom, Gap) or cores[atom.core].train))
        else:
            wanted.append((everything or atom.turn in trained) and last.get(atom.turn, True))
    return wanted


def _flips(atoms: Sequence[Atom], at: int, cores: Sequence[Core]) -> bool:
    """Whether the text at `at` is trained and the one before it in the same answer is not, or the other way round:
    what leads up to an answer is a prompt, and a prompt is tokenised by itself."""
    gap = atoms[at]
    assert isinstance(gap, Gap), gap
    before = next((atom for n in range(at - 1, -1, -1) if isinstance(atom := atoms[n], Gap)), None)
    return before is not None and before.turn == gap.turn and cores[before.core].train != cores[gap.core].train


def _kind(atom: Frame | Gap, cores: Sequence[Core], template: Template) -> SpanKind:
    if isinstance(atom, Frame):
        return "special" if atom.turn == OUTSIDE else "response"
    return "response" if template.form.trains(cores[atom.core].role) else "instruction"


def _train(stretch: _Stretch, text: str, kind: SpanKind, turn: int) -> None:
    """Add the characters of a trained text that is about to be appended, its grounding tags by their own kinds."""
    start = len(stretch.text)
    at = 0
    for first, stop, marked in (*(marks(text) if kind != "special" else ()), (len(text), len(text), kind)):
        for a, b, of in ((at, first, kind), (first, stop, marked)):
            last = stretch.regions[-1] if stretch.regions else None
            if last and last.stop == start + a and last.kind == of and last.turn == turn:
                stretch.regions[-1] = _Region(last.start, start + b, of, turn)
            elif b > a:
                stretch.regions.append(_Region(start + a, start + b, of, turn))
        at = stop


def _strip(pieces: Sequence[_Stretch | _Token], codec: Codec) -> None:
    """Take away the white space that a special token swallows on one of its sides (Phi-3's do)."""
    if not (codec.strips_left or codec.strips_right):
        return
    for before, after in pairwise(pieces):
        if isinstance(before, _Token) and isinstance(after, _Stretch) and before.id in codec.strips_right:
            gone = len(after.text) - len(after.text.lstrip())
            after.text = after.text[gone:]
            after.regions = [
                _Region(max(0, r.start - gone), r.stop - gone, r.kind, r.turn) for r in after.regions if r.stop > gone
            ]
        if isinstance(before, _Stretch) and isinstance(after, _Token) and after.id in codec.strips_left:
            before.text = before.text.rstrip()
            end = len(before.text)
            before.regions = [
                _Region(r.start, min(end, r.stop), r.kind, r.turn) for r in before.regions if r.start < end
            ]


def _trained(talk: Sequence[Message], template: Template) -> tuple[int, ...]:
    """The messages that are answers and are trained; one without text is none."""
    found = [
        number
        for number, message in enumerate(talk)
        if template.form.trains(message.role) and any(text.train and text.text for text in message.texts)
    ]
    if template.train_on == "last_turn":
        answers = [number for number, message in enumerate(talk) if template.form.trains(message.role)]
        found = [number for number in found if number == answers[-1]]
    return tuple(found)


def _assemble(
    draft: _Draft, number: int, tokens: Iterator[Tokens], codec: Codec, template: Template
) -> tuple[Encoded, list[Answer], DataError | None]:
    """The sample's tokens; all its stretches leave the iterator, whatever is wrong with it."""
    ids: list[int] = []
    spans: list[Span] = []
    order: list[int] = []
    answers: list[Answer] = []
    stops: Counter[int] = Counter()
    problem: DataError | None = None
    weights = template.weights.model_dump()
    for piece in draft.pieces:
        start = len(ids)
        if isinstance(piece, _Token):
            ids.append(piece.id)
            if piece.medium is not None:
                order.append(piece.medium)
            elif piece.trained:
                stops[piece.turn] += piece.stop
                spans.append(Span(start, start + 1, weights["special"], "special", piece.turn != OUTSIDE))
            continue
        found = next(tokens)
        if not codec.control_ids.isdisjoint(found.ids):
            problem = problem or DataError("text_special", "the text is tokenised to a special token")
        ids += found.ids
        places = found.places
        for region, (a, b) in zip(piece.regions, places, strict=True):
            known = codec.known(found.ids, a, b)
            if b > a and not known:  # only its end would be trained
                problem = problem or DataError("text_special", "the vocabulary knows nothing of a text that is trained")
            for first, stop in known:
                spans.append(
                    Span(start + first, start + stop, weights[region.kind], region.kind, region.turn != OUTSIDE)
                )
        answers += _answers(number, piece, places, found.ids)
    if draft.turns and any(stops[turn] > 1 for turn in draft.turns):
        problem = problem or DataError("label_mismatch", "an answer ends more than once")
    if not any(span.weight > 0 and span.stop > max(span.start, 1) for span in spans):
        problem = problem or DataError("no_target", "no text of the sample is trained")
    media = tuple(draft.media[at] for at in order)
    return Encoded(ids=ids, spans=tuple(spans), media=media), answers, problem


def _answers(number: int, piece: _Stretch, places: Sequence[tuple[int, int]], ids: list[int]) -> Iterator[Answer]:
    """Each trained stretch of characters without a gap, and the tokens that were given to it."""
    at = 0
    while at < len(piece.regions):
        last = at
        while last + 1 < len(piece.regions) and piece.regions[last].stop == piece.regions[last + 1].start:
            last += 1
        text = piece.text[piece.regions[at].start : piece.regions[last].stop]
        yield Answer(number, text, ids[places[at][0] : places[last][1]])
        at = last + 1
