"""Errors as commands print them, and where they point to."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mmdata import pointer
from mmdata.errors import DataError, RunError, SpecError

PAGE = """# Troubleshooting

## `disk_full`
## No sample can be packed: `no_packs`
<a id="no_packs"></a>

```python
# not_an_entry
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / pointer.PAGE
    path.parent.mkdir()
    path.write_text(PAGE)
    monkeypatch.setattr(pointer, "find", lambda: path)
    monkeypatch.chdir(tmp_path)
    return path


def test_a_line_stays_a_line_and_names_the_entry(page: Path) -> None:
    assert pointer.told(DataError("no_packs", "none fits")) == (
        "no_packs: none fits (more: docs/troubleshooting.md#no_packs)"
    )
    assert pointer.told(SpecError("a\nb", reason="no_packs")) == "a\nb\n  more: docs/troubleshooting.md#no_packs"


@pytest.mark.parametrize("reason", ["not_an_entry", "nothing", ""])
def test_nothing_is_pointed_to_that_is_not_there(page: Path, reason: str) -> None:
    assert pointer.told(DataError(reason or "x", "detail")) == f"{reason or 'x'}: detail"


def test_the_system_s_own_reasons_are_seen_through_what_they_became(
    page: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(28, "No space left on device")
    wrapped = RunError("out: No space left on device")
    wrapped.__cause__ = full
    for error in (full, wrapped):
        assert pointer.told(error).endswith("(more: docs/troubleshooting.md#disk_full)")
    named = RunError("out: busy", reason="no_packs")
    named.__cause__ = full
    assert "#no_packs" in pointer.told(named), "a reason of its own goes first"
    (page.parent / "deep").mkdir()
    monkeypatch.chdir(page.parent / "deep")
    assert f"{page}#disk_full" in pointer.told(full), "from elsewhere, the whole path"


def test_no_escape_sequence_of_data_reaches_a_terminal() -> None:
    assert pointer.told(DataError("x", "\x1b[2J\x07a\u202eb\nc")) == "x: \ufffd[2J\ufffda\ufffdb\nc"


def test_an_error_without_words_has_its_name() -> None:
    assert pointer.told(MemoryError()) == "MemoryError"


def test_reasons_travel_between_processes() -> None:
    for error in (SpecError("x", reason="other_spec"), RunError("x", reason="locked"), DataError("a", "b")):
        back = pickle.loads(pickle.dumps(error))
        assert (str(back), back.reason) == (str(error), error.reason)
