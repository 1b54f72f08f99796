from __future__ import annotations

import io

from mmdata.display import console, draw


def _shown(**values: object) -> str:
    out = io.StringIO()
    console(out).print(draw(**values))  # type: ignore[arg-type]
    return out.getvalue()


def test_what_is_drawn() -> None:
    text = _shown(seen=1500, total=3000, rate=42.4, left="5 s left", outcome=["kept 90.0%", "timeout 10.0%"])
    assert "1,500 of 3,000 records" in text
    assert "42/s" in text
    assert "5 s left" in text
    assert "kept 90.0% · timeout 10.0%" in text


def test_nothing_seen_and_nobody_knows_how_many() -> None:
    text = _shown(seen=0, total=None, rate=0.0, left="", outcome=[])
    assert "0 records" in text
    assert "waiting for the first record" in text


def test_markup_in_reasons_is_shown_as_it_is() -> None:
    assert "[bold]x" in _shown(seen=1, total=1, rate=1.0, left="", outcome=["[bold]x"])


class _Closed(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_reader_that_has_gone_silences_the_console() -> None:
    closed = console(_Closed())
    closed.print("a")  # rich itself would end the program here
    assert closed.quiet
