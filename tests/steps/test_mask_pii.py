"""What is an identifier and what is not, by examples with the published test numbers."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmdata.steps.mask_pii import MaskPii, luhn
from tests.steps.given import apply, build, record

FOUND = [
    ("write to ann.smith+x@mail.example.co.uk.", "write to <email>."),
    ("jürgen@müller.de, b@c.org", "<email>, <email>"),
    ("card 4111 1111 1111 1111!", "card <card>!"),  # test numbers of the card schemes
    ("378282246310005 and 6011-1111-1111-1117", "<card> and <card>"),
    ("call +1 (212) 555-0123 now", "call <phone> now"),
    ("+44 20 7946 0958 or 020 7946 0958", "<phone> or <phone>"),
    ("(030) 901820-12", "<phone>"),
    ("212-555-0123, 1-212-555-0123", "<phone>, <phone>"),
    ("0049 30 901820", "<phone>"),
    ("4111 1111 1111 1111 12/27, 1 5500 0000 0000 0004 123", "<card> 12/27, 1 <card> 123"),  # what stands beside it
    ("3782 822463 10005 4000-0000-0000-0002 1", "<card> <card> 1"),
    ("+4915112345678 or 0049 151 12345678", "<phone> or <phone>"),  # their digits would pass for a card's
    ("06 12 34 56 78, 01.42.68.53.00 and 079 123 45 67", "<phone>, <phone> and <phone>"),
    ("212\u2013555\u20130123, 212\u00a0555\u00a00123, 212-555-0123x5", "<phone>, <phone>, <phone>x5"),
    ("IP:10.0.0.1, http://192.168.1.20:8080/x ::ffff:10.1.2.3", "IP:<ip>, http://<ip>:8080/x <ip>"),
    ("user@xn--e1afmkfd.xn--p1ai", "<email>"),
    ("IBAN DE89 3704 0044 0532 0130 00, GB82WEST12345698765432", "IBAN <iban>, <iban>"),
    ("BE71 0961 2345 6769 BIC GKCCBEBB", "<iban> BIC GKCCBEBB"),
    ("from 192.168.0.1 and 2001:db8:85a3::8a2e:370:7334", "from <ip> and <ip>"),
]
CLEAN = [
    "4111 1111 1111 1112",  # its check digit is wrong
    "0000 0000 0000 0000",
    "on 2026-11-28 at 12:30:45, 1,234,567 people",
    "version 1.2.3.4.5 costs 1999-2004 and 256.1.1.1",
    "@home, a@b, std::vector, 3 x 4",
    "ISBN 978-3-16-148410-1",
    "1920x1080, 3.14159265, 2019 2020 2021",
    "AB12 of CDEF 3456 GHIJ",
    "0.25 0.5 0.75, 10 20 30 40 50, 1700000000, 00:1A:2B:3C:4D:5E",
]


@pytest.mark.parametrize(("text", "masked"), FOUND)
def test_found(text: str, masked: str) -> None:
    assert MaskPii().mask(text)[0] == masked
    assert MaskPii().mask(masked)[0] == masked, "again changes nothing"


@pytest.mark.parametrize("text", CLEAN)
def test_left_alone(text: str) -> None:
    assert MaskPii().mask(text) == (text, {})


def test_a_build(tmp_path: Path) -> None:
    records = [record("a@b.org and c@d.org, 10.0.0.1"), record("nothing"), record(("user", "a@b.org"))]
    built = build(tmp_path, records, [{"kind": "mask_pii"}])
    assert [sample.texts[0].text for sample in built.samples] == ["<email> and <email>, <ip>", "nothing", "<email>"]
    assert built.column("pii") == [{"email": 2, "ip": 1}, None, {"email": 1}]
    step = {"kind": "mask_pii", "action": "drop", "find": ["ip"]}
    dropping = build(tmp_path, records, [step], name="dropping")
    assert (dropping.reasons, dropping.details[0]) == (["mask_pii", "", ""], "1 ip")


@given(st.integers(10**11, 10**18))
def test_luhn(number: int) -> None:
    """One digit makes it right, any other and any swap of two neighbours (but 0 and 9) wrong."""
    body = [int(c) for c in str(number)]
    right = [last for last in range(10) if luhn([*body, last])]
    assert len(right) == 1
    whole = [*body, right[0]]
    at = random.Random(number).randrange(len(whole) - 1)
    swapped = [*whole[:at], whole[at + 1], whole[at], *whole[at + 2 :]]
    assert luhn(swapped) == (whole[at] == whole[at + 1] or {whole[at], whole[at + 1]} == {0, 9})


def test_a_long_text_takes_no_long_time() -> None:
    apply(MaskPii(), "1 " * 50_000 + "a." * 50_000 + ":" * 50_000 + "+1" * 20_000)
