"""Every rule of Gopher's quality filter, hit by a text that breaks it alone."""

from __future__ import annotations

from pathlib import Path

from tests.steps.given import build, record

GOOD = (
    "The harbour was quiet in the morning and a few boats came back with their catch of the night. "
    "By noon the tourists had filled every bench along the promenade, and children ran to the water. "
    "It was hot, so people stayed under the trees that have grown there since the old wall came down. "
)


def test_a_build(tmp_path: Path) -> None:
    line = "the boats of the harbour"
    texts = {
        "": GOOD,
        "words: 5 below 50": line,
        "words: 100,001 above 100,000": "the of " + "word " * 99_999,
        "mean length": "a of to be " * 20,
        "mean length of words: 1": "the and " + "extraordinarily " * 60,
        "hash signs": GOOD + "# " * 10,
        "ellipses per word": GOOD.replace(" ", " ... ", 8),
        "lines with bullets": f"- {line}\n" * 20,
        "cut lines": f"{line}...\n" * 4 + f"{GOOD}\n" * 5,
        "words with letters": GOOD + "1234 " * 20,
        "stop words": "harbour boats quiet morning " * 20,
        "no words": " \n",
    }
    built = build(tmp_path, [record(("document", text)) for text in texts.values()], [{"kind": "gopher_quality"}])
    assert built.reasons == ["", *["gopher_quality"] * (len(texts) - 1)]
    for rule, row in zip(texts, built.ledger, strict=True):
        assert row.detail.startswith(rule), (rule, row.detail)
