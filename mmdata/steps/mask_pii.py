"""Mask e-mail addresses, telephone, card and account numbers and network addresses in texts."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mmdata.registry import register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.steps._texts import Roles, chosen, rewritten
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work

Kind = Literal["email", "iban", "card", "ip", "phone"]
KINDS: tuple[Kind, ...] = ("email", "iban", "card", "ip", "phone")
"""In the order in which they are looked for: digits of an account or card would pass for a telephone."""
GAPS = " \u00a0\u2009\u202f-"
_GAP = r"[ \u00a0\u2009\u202f]"
_DASH = r"\u2010-\u2013-"
_V4 = r"(?:\d{1,3}\.){3}\d{1,3}"
# Repetitions are bounded, so that no text can make a search slow.
PATTERNS: dict[Kind, tuple[re.Pattern[str], ...]] = {
    "email": (
        re.compile(
            r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}(?:(?i:xn--[a-z0-9-]{2,59})|[^\W\d_]{2,24})(?!\w)"
        ),
    ),
    "iban": (re.compile(rf"(?<![\w-])[A-Z]{{2}}\d\d(?:{_GAP}?[A-Z0-9]{{4}}){{2,7}}(?:{_GAP}?[A-Z0-9]{{1,3}})?(?!\w)"),),
    "card": (
        # As cards show it, by the first digits of those who issue them: what stands beside it is no part of it.
        re.compile(
            rf"(?<![\w.+-])(?:[3-6]\d|2[2-7])\d\d({_GAP}|-)"
            r"(?:\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{6}\1\d{4,5})(?![\w-])"
        ),
        re.compile(r"(?<![\w.+-])[1-9](?:[ -]?\d){12,18}(?![\w-])"),
    ),
    "ip": (
        re.compile(rf"(?<![\w.:])(?:[0-9A-Fa-f]{{0,4}}:){{2,7}}(?:{_V4}|[0-9A-Fa-f]{{0,4}})(?![\w:]|\.\d)"),
        re.compile(rf"(?<![\w.]){_V4}(?!\w|\.\d)"),  # also where a port follows
    ),
    "phone": (
        re.compile(
            r"(?<![\w+.])(?:"  # in turn: international,
            rf"(?:\+|00)[1-9]\d{{0,2}}(?:(?:{_GAP}|[./{_DASH}]){{0,2}}(?:\(\d{{1,4}}\)|\d{{1,5}})){{2,6}}"
            rf"|\(\d{{2,5}}\)(?:{_GAP}|[{_DASH}])?\d{{2,4}}(?:(?:{_GAP}|[.{_DASH}])?\d{{2,4}}){{1,3}}"  # (area) number,
            rf"|(?:1(?:{_GAP}|[.{_DASH}]))?[2-9]\d{{2}}({_GAP}|[.{_DASH}])[2-9]\d{{2}}\1\d{{4}}"  # North American,
            rf"|0[1-9](?:({_GAP}|[./{_DASH}])\d\d)(?:\2\d\d){{3}}"  # national, in pairs,
            rf"|0\d{{1,4}}(?:{_GAP}|[/{_DASH}])\d{{3,4}}(?:(?:{_GAP}|[{_DASH}])?\d{{2,4}}){{1,2}}"  # with a trunk zero
            r")(?!(?!x\d)[\w-]|\.\d)"  # an extension may follow
        ),
    ),
}


@register("step", "mask_pii")
class MaskPii(StepSpec):
    """Replace personal identifiers in texts by their kind: `<email>`, `<phone>`, `<ip>`, `<card>`, `<iban>`. How many
    of each were found becomes a column `pii`. Found are e-mail addresses; account numbers (IBAN, ISO 13616) whose check
    digits are right; card numbers of 13 to 19 digits whose check digit is right (Luhn, ISO/IEC 7812-1); IPv4 and IPv6
    addresses that are valid; and telephone numbers in international form, with an area code in brackets, in North
    American form, or with a trunk zero and separators, of 7 to 15 digits (ITU-T E.164). Names and addresses of persons
    are not found: that takes a model."""

    kind: Literal["mask_pii"] = "mask_pii"
    find: tuple[Kind, ...] = Field(KINDS, min_length=1)
    """What is looked for."""
    action: Literal["mask", "drop"] = "mask"
    """`drop`: drop samples in which something is found, as `mask_pii`."""
    roles: Roles = ()
    """The texts that are looked at, by role. Default: all."""

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        counts: Counter[str] = Counter()
        for text in chosen(sample, self.roles):
            counts += self.mask(text)[1]
        if not counts:
            return sample
        if self.action == "drop":
            return Drop(reason=self.kind, detail=", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
        masked = rewritten(sample, self.roles, lambda text: self.mask(text)[0], empty=self.kind)
        return masked if isinstance(masked, Drop) else with_columns(masked, {"pii": dict(sorted(counts.items()))})

    def mask(self, text: str) -> tuple[str, Counter[str]]:
        """The text without what was found, and how much of each kind that was.

        >>> MaskPii().mask("ann@example.org, +44 20 7946 0958, 4111 1111 1111 1111, 2001:db8::1 on 2026-11-28")[0]
        '<email>, <phone>, <card>, <ip> on 2026-11-28'
        """
        counts: Counter[str] = Counter()
        for kind in KINDS:
            for pattern in PATTERNS[kind] if kind in self.find else ():
                text = _replaced(text, kind, pattern, counts)
        return text, counts


def _replaced(text: str, kind: Kind, pattern: re.Pattern[str], counts: Counter[str]) -> str:
    """The text with what a pattern finds, and is such an identifier, replaced by its kind."""
    made, done, at = list[str](), 0, 0
    while (found := pattern.search(text, at)) is not None:
        length = next((len(part) for part in _parts(kind, found[0]) if _is(kind, part)), 0)
        if length:
            counts[kind] += 1
            made += [text[done : found.start()], f"<{kind}>"]
            done = at = found.start() + length
        else:  # An address may begin within what is none; digits in any groups would pass for a card too often.
            at = found.start() + 1 if kind in ("ip", "iban") or pattern is PATTERNS["card"][0] else found.end()
    return "".join([*made, text[done:]])


def _parts(kind: Kind, text: str) -> list[str]:
    """What was found, and what is left of it without its last groups: a card's date of expiry, or a word behind an
    account."""
    parts = [text]
    while kind in ("card", "iban") and (end := max(parts[-1].rfind(gap) for gap in GAPS)) > 0:
        parts.append(parts[-1][:end])
    return parts


def _is(kind: Kind, text: str) -> bool:
    digits = [int(c) for c in text if c.isdecimal()]
    if kind == "card":
        return 13 <= len(digits) <= 19 and any(digits) and luhn(digits)
    if kind == "iban":
        plain = re.sub(_GAP, "", text)
        return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
    if kind == "phone":
        return 7 <= len(digits) <= 15
    if kind == "ip":
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return text != "::"
    return True


def luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others.

    >>> luhn([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 3]), luhn([7, 9, 9, 2, 7, 3, 9, 8, 7, 1, 4])
    (True, False)
    """
    doubled = (2 * digit if at % 2 else digit for at, digit in enumerate(reversed(digits)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0
