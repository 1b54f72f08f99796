"""Near-duplicate texts through a build, the same at any number of workers and after a restore."""

from __future__ import annotations

from pathlib import Path

from mmdata.decode.work import Work
from mmdata.steps.text_near_dup import TextNearDup
from mmdata.types import Sample
from tests.steps.given import apply, build, record

PROSE = (
    "The harbour was quiet in the morning. A few boats came back with their catch, and gulls circled above the pier. "
    "By noon tourists had filled every bench along the promenade, eating ice cream and taking pictures of each other. "
    "In the evening a band played on the square, and the fishermen went out again as they had done all their lives."
)


def test_a_build(tmp_path: Path) -> None:
    texts = [
        PROSE,
        PROSE.upper().replace(",", " --"),
        PROSE.replace("quiet", "calm"),
        " ".join(reversed(PROSE.split())),
        "A cat on a mat",
        "a cat on a mat!",
        "",
        "",
    ]
    records = [record(("document", text)) for text in texts]
    steps = [{"kind": "text_near_dup"}]
    built = build(tmp_path, records, steps, name="one")
    assert [(row.state, row.reason, row.of) for row in built.ledger] == [
        ("ok", "", None),
        ("duplicate", "text_near_dup", "000000000"),
        ("duplicate", "text_near_dup", "000000000"),
        ("ok", "", None),
        ("ok", "", None),
        ("duplicate", "text_near_dup", "000000004"),
        ("ok", "", None),
        ("ok", "", None),
    ]
    other = build(tmp_path, records, steps, name="other", workers=2, unit_rows=2)
    assert [row.of for row in other.ledger] == [row.of for row in built.ledger]


def test_restored() -> None:
    step = TextNearDup()
    sample = apply_signature(step, PROSE)
    state = step.state()
    state.keep("k", sample)
    state.keep("without", {})
    drop = state.check("l", sample)
    assert (drop.of, drop.detail) == ("k", "similarity about 1.00") if drop else False
    assert state.check("m", apply_signature(step, "another text")) is None
    assert apply_signature(TextNearDup(min_words=3), "two words") == {}


def apply_signature(step: TextNearDup, text: str) -> dict[str, bytes]:
    sample = apply(step, text)
    assert isinstance(sample, Sample)
    return step.signature(sample, Work())
