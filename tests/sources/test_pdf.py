"""PDF documents as a source: each page as pdfium renders it, damaged documents in a row of their own."""

from __future__ import annotations

import io
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdata.errors import DataError, SpecError
from mmdata.sources import pdf
from mmdata.sources.pdf import Pdf
from tests.building import picture
from tests.sources.run import built, records, states

pdfium = pytest.importorskip("pypdfium2", reason="pages are rendered by pypdfium2 (the extra `pdf`)")


def document(path: Path, pages: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *rest = (picture(number, (120, 160)) for number in range(pages))
    first.save(path, save_all=True, append_images=rest, resolution=72)
    return path


def test_pages_are_built_as_pdfium_renders_them(tmp_path: Path) -> None:
    document(tmp_path / "in" / "a.pdf", 3)
    (tmp_path / "in" / "b.PDF").write_bytes(b"%PDF-1.4 and then nothing")
    document(tmp_path / "in" / "sub" / "c.pdf", 1)
    (tmp_path / "in" / "notes.txt").write_text("no document")
    source = {"kind": "pdf", "path": str(tmp_path / "in"), "dpi": 144}
    dataset, rows = built(tmp_path / "out", source)
    assert states(rows) == ["ok", "ok", "ok", "failed_permanent:corrupt_pdf", "ok"]
    assert [(row.origin, row.origin_row) for row in rows] == [
        *(("a.pdf", number) for number in range(3)),
        ("b.PDF", 0),
        ("sub/c.pdf", 0),
    ]
    whole = pdfium.PdfDocument(tmp_path / "in" / "a.pdf")
    for number, sample in enumerate(list(dataset)[:3]):
        made = np.asarray(Image.open(io.BytesIO(sample.media[0].data or b"")).convert("RGB"))
        assert made.shape == (320, 240, 3)
        assert np.array_equal(made, np.asarray(whole[number].render(scale=2).to_pil().convert("RGB")))
        assert np.abs(made[::2, ::2].astype(int) - np.asarray(picture(number, (120, 160))).astype(int)).mean() < 12
        assert sample.meta == {"page": number, "pages": 3}
    assert len(records(source)) == 5


def test_a_document_that_crashes_or_stops_the_counter_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.pdf", "b.pdf", "c.pdf", "d.pdf"):
        document(tmp_path / name, 1)
    crash = f"    if 'b.pdf' in line: import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})\n"
    stop = "    if 'c.pdf' in line: import time; time.sleep(60)\n"
    monkeypatch.setattr(pdf, "_COUNTER", pdf._COUNTER.replace("    try:\n", crash + stop + "    try:\n", 1))
    monkeypatch.setattr(pdf, "SECONDS", 3.0)
    found = list(Pdf(path=str(tmp_path)).open().records())
    assert [record.drop.reason if record.drop else "" for record in found] == [
        *("", "corrupt_pdf", "decoder_timeout", ""),
    ]


def test_what_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"source_empty: .* no \.pdf file there"):
        Pdf(path=str(tmp_path)).open()
    monkeypatch.setattr(pdf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SpecError, match=r"pip install 'mmdata\[pdf\]'"):
        Pdf(path=str(tmp_path)).open()
