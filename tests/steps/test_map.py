"""A function of the user's, from a file under `plugins:`."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata.errors import SpecError
from tests.steps.given import build, record

PLUGIN = """
from dataclasses import replace
from mmdata import Drop, Text

def shout(sample, mark="!"):
    text = sample.texts[0].text
    if "quiet" in text:
        return Drop(reason="too_quiet", detail=text)
    if "tell" in text:
        return {"letters": len(text)}
    return replace(sample, parts=(Text(text=text.upper() + mark),))

THREE = 3
"""


def test_samples_drops_and_columns(tmp_path: Path) -> None:
    plugin = tmp_path / "mine_to_map.py"
    plugin.write_text(PLUGIN)
    step = {"kind": "map", "function": "mine_to_map.shout", "arguments": {"mark": "?"}}
    built = build(tmp_path, [record("a cat"), record("quiet"), record("tell")], [step], plugins=[str(plugin)])
    assert built.reasons == ["", "too_quiet", ""]
    assert [sample.texts[0].text for sample in built.samples] == ["A CAT?", "tell"]
    assert built.column("letters") == [None, 4]
    assert built.dataset.manifest.plugins["mine_to_map.py"], "the function's code is part of what a build is bound to"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("mine_too.shuot", "has no function 'shuot'; did you mean 'shout'"),
        ("mine_too.THREE", "has no function 'THREE'; known: Drop, Text, replace, shout"),
        ("os.getcwd", "no plugin is called 'os'"),
        ("shout", "no plugin is called ''"),
    ],
)
def test_mistakes(tmp_path: Path, function: str, message: str) -> None:
    plugin = tmp_path / "mine_too.py"
    plugin.write_text(PLUGIN)
    with pytest.raises(SpecError, match=message):
        build(tmp_path, [record("a")], [{"kind": "map", "function": function}], plugins=[str(plugin)])
