"""Writes the tables of docs that say what there is: `python docs/making/tables.py` fills in what is between marks."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from mmdata import registry
from mmdata.families import Family, _AnyToken, get_family

DOCS = Path(__file__).parents[1]
TESTS = DOCS.parent / "tests"
COMPARED = r"\w+(?:Processor|FeatureExtractor|ForConditionalGeneration)"
PURPOSES = {
    "any record": (
        "probe where sample split limit_per balance map exact_dedup near_dup dedup_against decontaminate materialize"
    ),
    "text": (
        "caption_clean caption_length caption_filename caption_boilerplate alt_text_clean text_length language "
        "repetition gopher_quality c4_quality blocklist mask_pii text_near_dup instruct"
    ),
    "pictures": (
        "min_side max_pixels aspect aspect_bucket resize blur entropy solid_colour text_area colour_mode thumbnail "
        "face_blur boxes embedding_score"
    ),
    "sound": "duration audio_resample loudness trim_silence clipping snr voice_activity transcript_rate",
    "video": (
        "video_shape black_frames motion scene_clips keyframe_images mark_frames subtitle_align video_encode av_offset"
    ),
}
"""Steps by what they are for; one that is not named here comes last."""


def first_line(group: str, kind: str) -> str:
    """What the module of a kind says that it does."""
    file = DOCS.parent / registry.PACKAGES[group].replace(".", "/") / f"{kind}.py"
    found = re.match(r'"""(.+?)(?:"""|\n)', file.read_text(encoding="utf-8"))
    assert found, file
    return found[1].replace("|", "\\|")


def steps() -> str:
    """A table for each purpose: kind, and what it does."""
    kinds = registry.kinds("step")
    sorted_out = {purpose: names.split() for purpose, names in PURPOSES.items()}
    named = {kind for names in sorted_out.values() for kind in names}
    rest = [kind for kind in kinds if kind not in named]
    lines: list[str] = []
    for purpose, names in {**sorted_out, **({"others": rest} if rest else {})}.items():
        lines += [f"## For {purpose}", "", "| kind | what it does |", "| --- | --- |"]
        lines += [f"| `{kind}` | {first_line('step', kind)} |" for kind in names if kind in kinds]
        lines.append("")
    return "\n".join(lines).rstrip()


def families() -> str:
    """A row for each family: media with their views and placeholders, positions, packing."""
    lines = ["| family | image | video | audio | positions | packs |", "| --- | --- | --- | --- | --- | --- |"]
    for name in registry.kinds("family"):
        family = get_family(name, tokenizer=_AnyToken())
        media = [_medium(family, kind) for kind in ("image", "video", "audio")]
        positions = "plain" if family.positions == "plain" else "M-RoPE"
        packs = "yes" if family.packs else "no"
        lines.append(f"| `{name}` | {' | '.join(media)} | {positions} | {packs} |")
    return "\n".join(lines)


def _medium(family: Family, kind: str) -> str:
    rule = family.media.get(kind)  # type: ignore[call-overload]
    if rule is None:
        return ""
    stands = f", `{rule.placeholder}`" if rule.placeholder else ", nothing in the text"
    return f"`{type(rule.view).__name__}` → `{rule.key}`{stands}".replace("|", "\\|")


def parity() -> str:
    """A row for each family: the classes of transformers that tests compare it with, where, and whether a model of it
    is trained packed and separately."""
    with_models = _constants(TESTS / "mmtrain" / "tiny_models.py")
    compared: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name in registry.kinds("family")}
    files = sorted([*(TESTS / "families").glob("test_*.py"), *(TESTS / "views").glob("test_*.py")])
    for whole in (False, True):  # test by test; where no test names a family itself, by files
        missing = [name for name in compared if not compared[name][0]]
        for file in [each for each in files if not whole or each.stem != "test_checkpoint"]:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            tests = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_"]
            for source in map(ast.unparse, [tree] if whole else tests):
                classes = set(re.findall(rf"\bhf\.({COMPARED})\b", source))
                for name in missing:
                    if classes and re.search(rf"['\"]{name}['\"]", source):
                        compared[name][0].update(classes)
                        compared[name][1].add(f"{file.parent.name}/{file.name}")
    lines = ["| family | compared with | in `tests/` | packed and separate |", "| --- | --- | --- | --- |"]
    for name, (classes, files) in compared.items():
        shown = [", ".join(f"`{each}`" for each in sorted(found)) for found in (classes, files)]
        lines.append(f"| `{name}` | {shown[0]} | {shown[1]} | {'yes' if name in with_models else ''} |")
    return "\n".join(lines)


def _constants(file: Path) -> set[object]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}


TABLES: dict[str, dict[str, Callable[[], str]]] = {
    "build/steps.md": {"steps": steps},
    "families.md": {"families": families, "parity": parity},
}


def filled(text: str, name: str, table: str) -> str:
    """The page with the table between its marks."""
    opened, closed = f"<!-- {name}: python docs/making/tables.py -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(opened)
    assert found, f"no {opened}"
    return f"{before}{opened}\n{table}\n{closed}{rest.partition(closed)[2]}"


def written(page: str) -> str:
    """A page with its tables as they are now."""
    text = (DOCS / page).read_text(encoding="utf-8")
    for name, make in TABLES[page].items():
        text = filled(text, name, make())
    return text


def main() -> int:
    """Write every table."""
    for page in TABLES:
        (DOCS / page).write_text(written(page), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
