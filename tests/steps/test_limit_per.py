"""The first of each group, in input order, whatever the workers."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mmdata.steps.limit_per import LimitPer
from mmdata.types import Sample
from tests.decode.pictures import photo, save
from tests.steps.given import apply, build, image, record


def test_hosts_of_real_pictures(tmp_path: Path) -> None:
    data = save(photo(32, 24), "PNG")
    urls = ["http://a.org/1", "http://b.org/1", "http://a.org/2", "http://a.org/3", "http://b.org/2", "http://a.org/4"]
    records = [record(image(data, url), "x" * (at != 2)) for at, url in enumerate(urls)]
    steps = [{"kind": "limit_per", "by": "host", "most": 2}, {"kind": "caption_length"}]
    built = build(tmp_path, records, steps, workers=2, unit_rows=2)
    assert built.reasons == ["", "", "caption_length", "", "", "limit_per"], "a rejected record is not counted"
    assert built.details[-1] == "2 of this host are kept already"


def test_two_limits_at_once(tmp_path: Path) -> None:
    data = save(photo(32, 24), "PNG")
    urls = ["http://a.org/1", "http://a.org/2", "http://b.org/1", "http://b.org/2", "http://b.org/3", "http://c.org/1"]
    records = [record(image(data, url), name, label=name) for url, name in zip(urls, "xyxxyx", strict=True)]
    steps = [{"kind": "limit_per", "by": "host", "most": 2}, {"kind": "limit_per", "by": "label", "most": 3}]
    built = build(tmp_path, records, steps, workers=2, unit_rows=2)
    assert built.reasons == ["", "", "", "", "limit_per", "limit_per"]
    assert [row.step for row in built.ledger] == [None, None, None, None, 0, 1]
    steps[1]["most"] = 2
    built = build(tmp_path, records, steps, name="fewer", workers=2, unit_rows=2)
    assert built.details[3:] == ["2 of this label are kept already", "", "2 of this label are kept already"]


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(1, 5), st.integers(0, 40))
def test_brute_force_and_restored(groups: list[int], most: int, midway: int) -> None:
    step = LimitPer(by="g", most=most)
    signatures = [step.signature(_sample(g), None) for g in groups]  # type: ignore[arg-type]
    state, restored = step.state(), step.state()
    seen: dict[int, int] = {}
    for at, (g, signature) in enumerate(zip(groups, signatures, strict=True)):
        drop = state.check("k", signature)
        assert (drop is None) == (seen.get(g, 0) < most)
        if at >= midway:
            assert restored.check("k", signature) == drop
        if drop is None:
            state.keep("k", signature)
            restored.keep("k", signature)
            seen[g] = seen.get(g, 0) + 1


def _sample(g: int) -> Sample:
    from tests.steps.given import apply

    found = apply(LimitPer(by="g", most=1), g=g)
    assert isinstance(found, Sample)
    return found


def test_a_record_without_the_column_is_not_limited() -> None:
    found = apply(LimitPer(by="g", most=1))
    assert isinstance(found, Sample)
    assert LimitPer(by="g", most=1).signature(found, None) == {}  # type: ignore[arg-type]
