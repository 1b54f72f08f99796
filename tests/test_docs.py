"""The documents: their Python runs, their specs load, their commands parse or run, their links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from mmdata import registry
from mmdata.errors import SpecError
from tests.docs_world import enter, write_world
from tests.markdown import Page, all_commands, anchors, blocks, compare, links, load_yaml, parse, prose

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *PAGES]}
LONGEST = 230
"""Lines of a page that can be read in one sitting; a table to look things up in may be longer."""
GIVERS = {"DataError", "FetchError", "transient", "opted_out", "guarded", "_guarded", "_Nothing"}
"""What takes a slug as its first argument."""
TABLES = ("docs/troubleshooting.md",)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(autouse=True)
def _own_kinds() -> Iterator[None]:
    """What a page registers is the page's own; what other tests in this process have registered is theirs."""
    before = dict(registry._table)
    yield
    for name, value in list(registry._table.items()):
        if name not in before and not value.__module__.startswith(("mmdata.", "mmtrain.")):
            del registry._table[name]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_a_page_does_what_it_says(path: Path, world: Path, tmp_path: Path) -> None:
    Page(folder=enter(world, tmp_path)).follow(path.read_text(encoding="utf-8"))


def test_the_readme_does_what_it_says(world: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    enter(world, tmp_path)
    (tmp_path / "data" / "laion").symlink_to(world / "data" / "pets")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "to").symlink_to(world)
    names = {"tokenizer": AutoTokenizer.from_pretrained(world / "tokenizer")}
    Page(folder=tmp_path, names=names).follow(TEXTS["README.md"])


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    text, folder = TEXTS[name], (ROOT / name).parent
    for target in links(text):
        place, _, anchor = target.partition("#")
        file = (folder / place).resolve() if place else ROOT / name
        assert file.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name}: {target}"


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "README.md"])
def test_a_page_is_short_and_names_files_that_are_there(name: str) -> None:
    text = TEXTS[name]
    assert len(text.splitlines()) <= LONGEST or name in TABLES, f"{name}: split it"
    tops = {"benchmarks", "docs", "examples", "mmdata", "mmtrain", "pipelines", "schemas", "tests"}
    named = [code.partition("#")[0].rstrip("/") for code in re.findall(r"`([\w./-]+)`", prose(text))]
    assert [
        code for code in named if code.partition("/")[0] in tops and "/" in code and not (ROOT / code).exists()
    ] == []
    for module in re.findall(r"\b(benchmarks\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_the_index_lists_every_page() -> None:
    """In the README of its folder."""
    for index in [page for page in PAGES if page.name == "README.md"]:
        listed = {(index.parent / target).resolve() for target in links(index.read_text(encoding="utf-8"))}
        beside = [page for page in PAGES if page.parent == index.parent and page != index]
        assert [str(page) for page in beside if page not in listed] == []


def test_the_layers_are_those_of_the_linter() -> None:
    """Rows come in the linter's order, and name every package."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = config["tool"]["importlinter"]["contracts"]
    wanted = {name.strip(): at for at, layer in enumerate(contract["layers"]) for name in layer.split("|")}
    table = TEXTS["docs/architecture.md"].partition("<!-- layers -->")[2].partition("<!-- /layers -->")[0]
    rows = [re.findall(r"`([\w.]+)`", line.split("|")[2]) for line in table.strip().splitlines()[2:]]
    places = [sorted(wanted[name] for name in row) for row in rows]
    assert all(upper[-1] < lower[0] for upper, lower in pairwise(places))
    packages = [name for name in wanted if (ROOT / name.replace(".", "/")).is_dir()]
    assert set(packages) <= {name for row in rows for name in row}


def test_the_pictures_are_what_the_code_draws() -> None:
    drawn = importlib.import_module("docs.making.packing").DRAWN
    for name, draw in drawn.items():
        file = DOCS / "pictures" / f"packing_{name}.svg"
        assert file.read_text(encoding="utf-8") == draw(), f"{file.name}: run python docs/making/packing.py"
        assert f"pictures/{file.name}" in TEXTS["docs/packing.md"]


@pytest.mark.parametrize("page", ["build/steps.md", "families.md"])
def test_the_tables_are_what_there_is(page: str) -> None:
    tables = importlib.import_module("docs.making.tables")
    assert set(tables.TABLES) == {"build/steps.md", "families.md"}
    assert tables.written(page) == TEXTS[f"docs/{page}"], "run python docs/making/tables.py"


@pytest.mark.parametrize("group", ["source", "step", "family"])
def test_every_kind_is_named_on_some_page(group: str) -> None:
    named = {word for name, text in TEXTS.items() if name != "README.md" for word in re.findall(r"\w+", text)}
    assert [kind for kind in registry.kinds(group) if kind not in named] == []
    assert "| others" not in TEXTS["docs/build/steps.md"]


def reasons() -> set[str]:
    """Every slug that the code gives to an error or a drop, as far as its source spells them."""
    found: set[str] = set()
    for path in [*(ROOT / "mmdata").rglob("*.py"), *(ROOT / "mmtrain").rglob("*.py")]:
        if "testing" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        if not re.search(r"reason=|empty=|" + "|".join(f"{name}\\(" for name in GIVERS), text):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            named = [word.value for word in node.keywords if word.arg in ("reason", "empty")]
            if name in GIVERS and node.args:
                named.append(node.args[0])
            if name == "Drop" and any("kind" in ast.unparse(value) for value in named):
                found.add(path.stem)
            found |= {
                each.value
                for value in named
                for each in ast.walk(value)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return {slug for slug in found if re.fullmatch(r"[a-z][a-z0-9_]+", slug) and not slug.endswith("_")}


def test_every_reason_has_its_entry() -> None:
    page = TEXTS["docs/troubleshooting.md"]
    entries = re.findall(r'<a id="([^"]+)"', page)
    assert len(entries) == len(set(entries)), [slug for slug in set(entries) if entries.count(slug) > 1]
    known = reasons()
    assert len(known) > 150
    assert sorted(known - anchors(page)) == [], "give each an entry in docs/troubleshooting.md"
    source = "\n".join(
        path.read_text(encoding="utf-8")
        for path in [*(ROOT / "mmdata").rglob("*.py"), *(ROOT / "mmtrain").rglob("*.py")]
    )
    spelt = {*known, *registry.kinds("step")}
    left = [slug for slug in entries if slug not in spelt and not slug.startswith(("http_", "x_robots_"))]
    assert [slug for slug in left if f'"{slug}"' not in source and f"{slug}:" not in source] == []


def test_the_tests_of_pages_can_fail(tmp_path: Path) -> None:
    page = Page(folder=tmp_path)
    for wrong in ("```python\nassert 1 == 2\n```\n", "```bash\npython -m mmdata.build --no-such\n```\n"):
        with pytest.raises((AssertionError, SystemExit)):
            page.follow(wrong)
    with pytest.raises(SpecError, match="pixel"):
        load_yaml("steps: [{kind: min_side, pixel: 3}]\n", tmp_path)
    with pytest.raises(AssertionError):
        compare("one ... three", "one two\n")
    compare("one ... three", "zero\none two three\n")
    assert parse(["mmdata.verify", "x"]).dataset == "x"
    assert all_commands("```bash\nls\npython -m mmdata.verify a  # b\n```\n") == [["mmdata.verify", "a"]]
    assert [block.language for block in blocks("```yaml file=a.yaml\na: 1\n```\n")] == ["yaml"]
