"""Mask e-mail addresses, telephone and card numbers and network addresses in texts."""

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

Kind = Literal["email", "card", "ip", "phone"]
# Repetitions are bounded, so that no text can make a search slow.
PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)"),
    "card": re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w-])"),
    "ip": re.compile(
        r"(?<![\w.:])(?:(?:\d{1,3}\.){3}\d{1,3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:]|\.\d)"
    ),
    "phone": re.compile(
        r"(?<![\w+.])(?:"
        r"(?:\+|00)[1-9]\d{0,2}(?:[ ./-]{0,2}(?:\(\d{1,4}\)|\d{1,5})){2,6}"  # international
        r"|\(\d{2,5}\)[ -]?\d{2,4}(?:[ .-]?\d{2,4}){1,3}"  # (area) number
        r"|(?:1[ .-])?[2-9]\d{2}([ .-])[2-9]\d{2}\1\d{4}"  # North American
        r"|0\d{1,4}[ /-]\d{3,4}(?:[ -]?\d{2,4}){1,2}"  # national, with a trunk zero
        r")(?![\w-]|\.\d)"
    ),
}


@register("step", "mask_pii")
class MaskPii(StepSpec):
    """Replace personal identifiers in texts by their kind: `<email>`, `<phone>`, `<ip>`, `<card>`. How many of each
    were found becomes a column `pii`. Found are e-mail addresses; card numbers of 13 to 19 digits whose check digit is
    right (Luhn, ISO/IEC 7812-1); IPv4 and IPv6 addresses that are valid; and telephone numbers in international form,
    with an area code in brackets, in North American form, or with a trunk zero, of 7 to 15 digits (ITU-T E.164). Names
    and addresses of persons are not found: that takes a model."""

    kind: Literal["mask_pii"] = "mask_pii"
    find: tuple[Kind, ...] = Field(("email", "card", "ip", "phone"), min_length=1)
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

        def replaced(found: re.Match[str]) -> str:
            if not _is(kind, found[0]):
                return found[0]
            counts[kind] += 1
            return f"<{kind}>"

        for kind in ("email", "card", "ip", "phone"):  # In this order: digits of a card would pass for a telephone.
            if kind in self.find:
                text = PATTERNS[kind].sub(replaced, text)
        return text, counts


def _is(kind: str, text: str) -> bool:
    digits = [int(c) for c in text if c.isdecimal()]
    if kind == "card":
        return any(digits) and luhn(digits)
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
