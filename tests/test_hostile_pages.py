"""Pages of packs with an attacker's captions, names and addresses, in a real browser: text, and nothing else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from mmdata import explain
from tests import report_browser as browser
from tests.building import build, folder_of_pictures, write_spec
from tests.tokenizer_fixture import small_tokenizer

SCRIPT = "document.title='owned'"
HOSTILE = (
    f"<script>{SCRIPT}</script>",
    f'"><img src=x onerror="{SCRIPT}">',
    f"</span></main></body><svg onload={SCRIPT}>",
    "{{ 7*7 }}{% include '/etc/passwd' %}",
    f"<a href=javascript:{SCRIPT}>click</a><style>@import 'http://127.0.0.1:1/x.css'</style>",
    f"<iframe srcdoc='<script>parent.{SCRIPT}</script>'></iframe>\u2028\x00\x1b[2J",
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    folder_of_pictures(folder / "in", len(HOSTILE), captions=False)
    rows = []
    for number, text in enumerate(HOSTILE):
        (folder / "in" / f"{number:04d}.jpg").rename(folder / "in" / f"<b>{number}<script>.jpg")
        rows.append({"image": f"in/<b>{number}<script>.jpg", "text": text, "task": text, "url": f"javascript:{SCRIPT}"})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    build(write_spec(folder / "spec.yaml", {"kind": "jsonl", "path": "rows.jsonl"}, [{"kind": "probe"}]))
    target = folder / "pack.html"
    small_tokenizer().save_pretrained(str(folder / "tokenizer"))
    told = ["--family", "llava", "--tokenizer", str(folder / "tokenizer"), "--image", "size=28", "--max-length", "4096"]
    assert explain.main([str(folder / "out"), *told, "--step", "0", "--html", str(target)]) == 0
    return target


def test_hostile_texts_are_escaped(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;" in text
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


@pytest.mark.skipif(browser.BINARY is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_runs_and_fetches_nothing(page: Path) -> None:
    for shot in asyncio.run(browser.shoot(page, ((1280, 900),))).values():
        facts = shot.facts
        assert "owned" not in facts["title"]
        assert (facts["scripts"], facts["handlers"], facts["requests"]) == (0, 0, [])
        assert [href for href, _ in facts["links"] if not href.startswith(("#", "http://", "https://"))] == []
