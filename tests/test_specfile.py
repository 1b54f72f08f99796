"""Spec files: every mistake in one message, overrides, paths relative to the file, digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmdata import registry, settings, specfile
from mmdata.errors import SpecError

GOOD = """
source:
  kind: folder
  path: images
steps:
  - {kind: min_side, pixels: 64}
  - {kind: aspect, max: 3}
output:
  path: out
"""


def write(folder: Path, text: str, name: str = "spec.yaml") -> str:
    (folder / "images").mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    return str(path)


def test_paths_are_relative_to_the_spec_file(tmp_path: Path) -> None:
    spec, file = specfile.load_build(write(tmp_path, GOOD))
    assert spec.source.path == str(tmp_path / "images")
    assert spec.output.path == str(tmp_path / "out")
    assert file == tmp_path / "spec.yaml"


def test_paths_of_a_command_line_are_relative_to_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specs, here = tmp_path / "specs", tmp_path / "here"
    for folder in (specs, here / "pictures", here / "x"):
        folder.mkdir(parents=True)
    name = write(specs, GOOD)
    monkeypatch.chdir(here)
    assert specfile.load_build(name, ["source.path=pictures"])[0].source.path == str(here / "pictures")
    assert specfile.load_build(name, ["source.path=."])[0].source.path == str(here)
    assert specfile.load_build(name, ["source={kind: folder, path: ./x/}"])[0].source.path == str(here / "x")
    spec, _ = specfile.load_build(name, ["output.path=out", "source.path=/", "steps.min_side.pixels=3"])
    assert (spec.output.path, spec.source.path) == (str(here / "out"), "/")
    assert specfile.load_build(name, ["output.path=s3://a/b"])[0].output.path == "s3://a/b"
    with pytest.raises(SpecError, match=f"no such file or folder: {specs / 'pictures'}"):
        specfile.load_build(write(specs, GOOD.replace("path: images", "path: pictures")), ["output.seed=1"])
    with pytest.raises(SpecError, match=f"{here / 'pictvres'}; did you mean 'pictures'"):
        specfile.load_build(name, ["source.path=pictvres"])


def test_six_mistakes_are_six_lines(tmp_path: Path) -> None:
    text = """
source:
  kind: folder
  path: nowhere
  extension: [jpg]
steps:
  - {kind: min_sid, pixels: 64}
  - {kind: aspect, max: wide}
  - {kind: min_side, pixel: 64}
fetch:
  retries: -1
output:
  path: out
"""
    with pytest.raises(SpecError) as caught:
        specfile.load_build(write(tmp_path, text))
    lines = str(caught.value).splitlines()
    # min_side has two: an unknown key, and the missing `pixels`.
    assert lines[0].endswith("7 mistakes"), str(caught.value)
    assert len(lines) == 8
    message = str(caught.value)
    assert "line 4: source.path" in message
    assert "no such file or folder" in message
    assert "did you mean 'extensions'?" in message
    assert "steps[0].kind: \"min_sid\": no such kind; did you mean 'min_side'?" in message
    assert 'steps[1].max: "wide"' in message
    assert "steps[2].pixel: 64: unknown key; did you mean 'pixels'?" in message
    assert "steps[2].pixels: required, but missing" in message
    assert "fetch.retries: -1" in message


def test_a_key_may_look_like_a_type(tmp_path: Path) -> None:
    """pydantic names what a value may be with brackets, too; fuzzing found a slip of the finger among them."""
    with pytest.raises(SpecError) as caught:
        specfile.load_build(write(tmp_path, GOOD.replace("source:", "s[urce:")), check_paths=False)
    assert "s[urce: " in str(caught.value)
    assert "unknown key; did you mean 'source'?" in str(caught.value)


def test_doubled_keys_and_bad_overrides_are_mistakes_too(tmp_path: Path) -> None:
    text = GOOD + "limit: 3\nlimit: 4\n"
    with pytest.raises(SpecError) as caught:
        specfile.load_build(write(tmp_path, text), ["steps.resize.size=3", "nonsense", "steps.9.pixels=1"])
    message = str(caught.value)
    assert "limit: written twice" in message
    assert "no 'steps.resize'" in message
    assert "write it as path=value" in message
    assert "no 'steps.9'" in message
    assert "4 mistakes" in message


def test_overrides_go_by_number_and_by_kind(tmp_path: Path) -> None:
    spec, _ = specfile.load_build(
        write(tmp_path, GOOD), ["steps.0.pixels=100", "steps.aspect.max=2.5", "engine.workers=3", "limit=7"]
    )
    assert [getattr(spec.steps[0], "pixels"), getattr(spec.steps[1], "max")] == [100, 2.5]  # noqa: B009 kinds differ
    assert (spec.engine.workers, spec.limit) == (3, 7)


def test_not_yaml_names_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"spec\.yaml:\d+:\d+: not valid YAML"):
        specfile.load_build(write(tmp_path, "source: [a\noutput: {"))


def test_top_level_must_be_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="must be a mapping"):
        specfile.load_build(write(tmp_path, "- a\n- b\n"))


def test_no_such_spec_names_the_nearest_pipeline() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'laion_subset\.yaml'"):
        specfile.find("laion_subsett.yaml")


def test_shipped_pipelines_are_found_by_name() -> None:
    assert specfile.find("laion_subset.yaml").name == "laion_subset.yaml"
    assert specfile.find("laion_subset").name == "laion_subset.yaml"
    assert specfile.find("llava_15") == specfile.pipelines() / "train" / "llava_15.yaml"


def test_runtime_fields_stay_out_of_the_bound_spec(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    one, _ = specfile.load_build(path)
    other, _ = specfile.load_build(
        path, ["engine.workers=7", "fetch.concurrency=3", "fetch.total_seconds=1", f"output.path={tmp_path / 'other'}"]
    )
    changed, _ = specfile.load_build(path, ["steps.min_side.pixels=65"])
    assert specfile.bound(one) == specfile.bound(other)
    assert list(settings.difference(specfile.bound(one), specfile.bound(changed))) == ["steps[0].pixels: 64 -> 65"]
    assert settings.digest(specfile.bound(one)) != settings.digest(specfile.bound(changed))


def test_yes_and_no_are_words_not_booleans(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: aspect, max: 3}", "{kind: resize, mode: no, size: 3}")
    with pytest.raises(SpecError, match=r'steps\[1\]\.mode: "no"'):
        specfile.load_build(write(tmp_path, text))


def test_a_plugin_file_registers_its_step(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from typing import Literal\n"
        "from mmdata import Drop, register\n"
        "from mmdata.spec import StepSpec\n"
        '@register("step", "no_cats")\n'
        "class NoCats(StepSpec):\n"
        '    kind: Literal["no_cats"] = "no_cats"\n'
        "    def apply(self, sample, work):\n"
        '        return Drop(reason="no_cats") if "cat" in sample.texts[0].text else sample\n'
    )
    try:
        spec, _ = specfile.load_build(
            write(tmp_path, "plugins: [mine.py]\n" + GOOD.replace("{kind: aspect, max: 3}", "{kind: no_cats}"))
        )
        assert spec.steps[1].kind == "no_cats"
    finally:
        registry._table.pop(("step", "no_cats"), None)


def test_a_broken_plugin_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module_at_all\n")
    with pytest.raises(SpecError, match=r"plugins: cannot import .*broken\.py.*no_such_module_at_all"):
        specfile.load_build(write(tmp_path, "plugins: [broken.py]\n" + GOOD))
    (tmp_path / "script.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(SpecError, match=r"plugins: cannot import .*script\.py.*SystemExit: 3"):
        specfile.load_build(write(tmp_path, "plugins: [script.py]\n" + GOOD))


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]\n",
        "source: &a {kind: folder, path: *a}\n",
        "a: " + "[" * 3000 + "]" * 3000,
        "? [a, b]\n: 1\n",
        "a: 2020-13-45\n",
        "limit: " + "9" * 6000,
        "source: {2020-01-01: 3}\n",
        "a: !!python/object:os.system x\n",
    ],
)
def test_odd_yaml_is_a_mistake_not_a_crash(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"odd\.yaml"):
        specfile.load_build(str(tmp_path / "odd.yaml"))


@pytest.mark.parametrize("override", ["a=&a [*a]", "limit=2020-99-99", "a=" + "[" * 3000])
def test_odd_overrides_are_mistakes(tmp_path: Path, override: str) -> None:
    (tmp_path / "a.yaml").write_text("output: {path: out}\n")
    with pytest.raises(SpecError, match="the value is not valid YAML"):
        specfile.load_build(str(tmp_path / "a.yaml"), [override])


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.yaml", "x" * 5000, "\0"])
def test_odd_names_of_specs_are_mistakes(name: str) -> None:
    with pytest.raises(SpecError):
        specfile.load_build(name)


def test_a_folder_is_no_spec(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="a folder, not a spec file"):
        specfile.load_build(str(tmp_path))


def test_wrong_types_are_told_in_the_words_of_yaml_at_their_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        f"source: text\nsteps: {{kind: probe}}\noutput: {{path: {'o' * 9}}}\nfetch: 3\nplugins: x\n"
    )
    with pytest.raises(SpecError) as caught:
        specfile.load_build(str(tmp_path / "a.yaml"))
    assert sorted(line.split(": ", 1)[1] for line in str(caught.value).splitlines()[1:]) == [
        "fetch: 3: a mapping of keys is needed",
        'plugins: "x": a list is needed',
        'source: "text": a mapping of keys is needed',
        'steps: {"kind": "probe"}: a list is needed',
    ]
    (tmp_path / "b.yaml").write_text(
        f"source: {{kind: folder, path: {'é' * 200}}}\nsteps:\n- kind: resize\noutput: {{path: out}}\n"
    )
    with pytest.raises(SpecError) as caught:
        specfile.load_build(str(tmp_path / "b.yaml"))
    assert "source.path" in str(caught.value)
    assert 'steps[0]: {"kind": "resize"}: ' in str(caught.value)


def test_plugins_may_be_named_by_an_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_table", dict(registry._table))
    (tmp_path / "late.py").write_text(
        "from typing import Literal\n"
        "from mmdata.registry import register\n"
        "from mmdata.spec import StepSpec\n"
        "@register('step', 'late')\n"
        "class Late(StepSpec):\n"
        "    kind: Literal['late'] = 'late'\n"
        "    def apply(self, sample, work):\n"
        "        return sample\n"
    )
    (tmp_path / "in").mkdir()
    (tmp_path / "a.yaml").write_text("source: {kind: folder, path: in}\nsteps: [{kind: late}]\noutput: {path: out}\n")
    spec, _ = specfile.load_build(str(tmp_path / "a.yaml"), ["plugins=[late.py]"])
    assert spec.steps[0].kind == "late"
