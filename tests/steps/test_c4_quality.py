"""C4's rules on a page: which lines stay, which pages go."""

from __future__ import annotations

from pathlib import Path

from tests.steps.given import build, record

PAGE = """Home | About | Contact
The harbour was quiet in the morning.[1]
Please enable JavaScript to see this page.
A few boats came back with their catch, and gulls circled above!
Read our privacy policy before you go on with this.
Short line here.
By noon tourists had filled every bench...
Was it not a beautiful summer day in town?"""


def test_a_build(tmp_path: Path) -> None:
    code = PAGE + "\nfunction () { return one two three. }"
    texts = [PAGE, code, PAGE + "\nLorem ipsum dolor.", "Just these five words here.\nHome", "menu\nabout"]
    built = build(tmp_path, [record(("document", text)) for text in texts], [{"kind": "c4_quality"}])
    assert built.reasons == ["", *["c4_quality"] * 4]
    assert built.details[1:] == [
        "a curly bracket",
        "lorem ipsum",
        "1 sentences, fewer than 3",
        "nothing is left of the text",
    ]
    assert built.samples[0].texts[0].text.splitlines() == [
        "The harbour was quiet in the morning.",
        "A few boats came back with their catch, and gulls circled above!",
        "Was it not a beautiful summer day in town?",
    ]
