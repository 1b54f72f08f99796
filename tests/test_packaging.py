"""The wheel: it holds the packages, pipelines and page parts, nothing else, and works where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def run(*arguments: str, cwd: Path, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python; with `site`, on what is installed there and on the dependencies of this environment alone."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *arguments]
    if site is not None:
        # -S: an editable install would lend the checkout's modules to a wheel that lacks them.
        command.insert(1, "-S")
        env["PYTHONPATH"] = os.pathsep.join([str(site), *site_packages()])
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False)


def site_packages() -> list[str]:
    return sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built from a copy: setuptools leaves its `build/` beside what it builds."""
    for name in ("setuptools", "wheel"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed, and a build that fetches it would need a network")
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("mmdata", "mmtrain", "pipelines", "docs", "tests", "benchmarks"):
        ignored = shutil.ignore_patterns("__pycache__", "data", ".peers")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = run("-m", "pip", "wheel", str(tree), *flags, "-w", str(folder), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed") / "site"
    flags = ("--no-deps", "--no-index", "--disable-pip-version-check")
    done = run("-m", "pip", "install", *flags, "--target", str(target), str(wheel), cwd=wheel.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def expected_files() -> set[str]:
    """What a wheel has to hold, from the tree itself: all modules, and all files that are not modules."""
    files = {
        path.relative_to(ROOT).as_posix()
        for package in ("mmdata", "mmtrain")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    shipped = [*(ROOT / "pipelines").rglob("*.yaml"), *(ROOT / "pipelines" / "train").rglob("*.json")]
    shipped += [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs" / "pictures").glob("*.svg")]
    return files | {f"mmdata/{path.relative_to(ROOT).as_posix()}" for path in shipped}


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        licences = [name for name in names if name.endswith("LICENSE")]
        assert [archive.read(name) for name in licences] == [(ROOT / "LICENSE").read_bytes()]
    metadata = {name for name in names if ".dist-info/" in name}
    assert sorted(expected_files() - names) == []
    assert sorted(names - metadata - expected_files()) == []
    for name in ("mmdata/pipelines/laion_subset.yaml", "mmdata/pipelines/train/llava_15.yaml", "mmdata/py.typed"):
        assert name in names
    assert {Path(name).suffix for name in names if name.startswith("mmdata/report_page/")} >= {".css", ".jinja", ".py"}


def test_all_packages_are_listed() -> None:
    packages = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in ("mmdata", "mmtrain")
        for path in (ROOT / package).rglob("*.py")
    }
    listed = PROJECT["tool"]["setuptools"]["packages"]
    assert sorted(packages | {"mmdata.docs", "mmdata.pipelines"}) == sorted(listed)


def test_commands_run_where_the_wheel_is_installed(installed: Path, tmp_path: Path) -> None:
    for command in (
        ("mmdata.build", "--spec", "laion_subset.yaml", "--help"),
        ("mmdata", "--help"),
        ("mmtrain", "--help"),
    ):
        done = run("-m", *command, cwd=tmp_path, site=installed)
        assert done.returncode == 0, done.stderr
        assert "usage: python -m mm" in done.stdout


def test_an_installed_error_names_its_entry(installed: Path, tmp_path: Path) -> None:
    done = run("-m", "mmdata.build", "--spec", "laion_subset.yaml", "--set", "sauce=1", cwd=tmp_path, site=installed)
    assert done.returncode != 0
    assert f"more: {installed / 'mmdata/docs/troubleshooting.md'}#spec_mistake" in done.stderr


def test_shipped_pipelines_are_found_from_anywhere(installed: Path, tmp_path: Path) -> None:
    code = "from mmdata import specfile; print(*map(specfile.find, ('laion_subset.yaml', 'llava_15')), sep='\\n')"
    done = run("-c", code, cwd=tmp_path, site=installed)
    assert done.returncode == 0, done.stderr
    shipped = installed / "mmdata" / "pipelines"
    assert done.stdout.split("\n")[:2] == [str(shipped / "laion_subset.yaml"), str(shipped / "train" / "llava_15.yaml")]


def test_the_installed_pipeline_builds_a_table(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "links.csv").write_text(
        "URL,TEXT,punsafe,similarity\n"
        "https://example.org/a.jpg,a cat,0.1,0.3\n"
        "https://example.org/b.jpg,a dog,0.99,0.3\n"
    )
    command = ["-m", "mmdata.build", "--spec", "laion_subset.yaml", "--dry-run"]
    command += ["--set", f"source.path={tmp_path / 'links.csv'}", "--output", str(tmp_path / "out")]
    done = run(*command, cwd=tmp_path, site=installed)
    assert done.returncode == 0, done.stderr
    assert "laion: 2 input rows" in done.stdout
    assert "1 filtered: where" in done.stdout


def test_ranges_are_open_and_pins_lie_in_constraints() -> None:
    project = PROJECT["project"]
    named = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    assert [line for line in named if "==" in line.partition(";")[0]] == []
    assert project["requires-python"] == ">=3.11"
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in pins if "://" in line or "@" in line or line.count("==") != 1] == []
    names = {line.partition("==")[0].lower().replace("_", "-") for line in pins}
    assert {"pillow", "transformers"} <= names
    required = {line.partition(";")[0].partition(">")[0].partition("[")[0].strip() for line in project["dependencies"]}
    assert sorted({name.lower().replace("_", "-") for name in required} - names) == []
