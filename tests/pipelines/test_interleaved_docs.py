"""`interleaved_docs.yaml` on pages of real sentences and pictures, and the damage that such lists have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.building import picture
from tests.pipelines.running import run

WORDS = (
    "The harbour lies below the old town and its boats leave at dawn.",
    "Fishermen mend nets on the quay while gulls wait for what is thrown away.",
    "In the evening lamps are lit along the wall, and music comes from the taverns.",
    "Nobody remembers who built the tower, though every child has climbed it.",
)
OTHERS = (
    "Bread rises slowly in a cold kitchen, so begin the night before you bake.",
    "Fold the dough four times and leave it under a cloth until it doubles.",
    "A stone in the oven keeps the heat that the crust needs in its first minutes.",
)


def documents(folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    for number in range(4):
        picture(number).save(folder / f"{number}.jpg", quality=90)
    picture(9, (40, 40)).save(folder / "icon.png")
    picture(8, (1200, 120)).save(folder / "banner.jpg")
    (folder / "cut.jpg").write_bytes((folder / "1.jpg").read_bytes()[:900])

    def page(images: list[str | None], *texts: str | None) -> dict[str, Any]:
        return {"images": images, "texts": list(texts), "url": "https://example.org/page"}

    return [
        page([None, "0.jpg", None], WORDS[0], None, WORDS[1]),
        page(["1.jpg", None, "2.jpg", None], None, OTHERS[0], None, OTHERS[1]),
        page([None, "3.jpg"], f"{WORDS[2]} Write to keeper@example.org or call +44 20 7946 0958.", None),
        page([None], f"{OTHERS[2]} {WORDS[3]}"),
        page(["0.jpg", None], None, "Too short."),
        page([None, "icon.png"], f"{WORDS[3]} {OTHERS[0]}", None),
        page([None, "banner.jpg"], f"{WORDS[3]} {OTHERS[0]}", None),
        page([None, "0.jpg"], " ".join(["buy now and save"] * 12), None),
        page([None, "0.jpg"], f"Lorem ipsum dolor sit amet, said the page. {WORDS[3]}", None),
        page([None, "2.jpg", None], WORDS[0], None, WORDS[1]),
        page([None, "cut.jpg"], f"{WORDS[3]} {OTHERS[0]}", None),
        page([None, "gone.jpg"], f"{WORDS[3]} {OTHERS[0]}", None),
    ]


def test_documents_keep_their_order(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    lines = "".join(json.dumps(document) + "\n" for document in documents(folder))
    (folder / "docs.jsonl").write_text(lines)
    made = run("interleaved_docs.yaml", tmp_path / "out", f"source.path={folder}")
    assert made.reasons[:10] == [
        *([""] * 4),
        *("text_length", "min_side", "aspect", "repetition", "blocklist", "text_near_dup"),
    ]
    assert (made.rows[10].state, made.reasons[11]) == ("failed_permanent", "not_found")
    first, second, third, _ = made.samples
    assert [getattr(part, "text", "picture") for part in first.parts] == [WORDS[0], "picture", WORDS[1]]
    assert [getattr(part, "text", "picture") for part in second.parts] == ["picture", OTHERS[0], "picture", OTHERS[1]]
    assert third.texts[0].text == f"{WORDS[2]} Write to <email> or call <phone>."
    assert {sample.meta["split"] for sample in made.samples} <= {"train", "val"}
