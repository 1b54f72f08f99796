"""The doctor: true of packages that work, that are missing, and that raise, crash, hang or shout when imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mmdata import doctor, machine, probes
from mmdata.doctor import Answer

BROKEN = {
    "raises": ("raise OSError('libx.so.9: cannot open shared object file')", "OSError: libx.so.9: cannot open shared"),
    "aborts": ("import os; os.abort()", "crashed: SIGABRT"),
    "faults": ("import ctypes; ctypes.string_at(0)", "crashed: SIGSEGV"),
    "hangs": ("import time; time.sleep(600)", "gave no answer within 3 s"),
    "leaves": ("import os; os._exit(7)", "ended with exit code 7"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "lacks": ("import not_there_at_all", "No module named 'not_there_at_all'"),
}
GOOD: dict[str, dict[str, Any]] = {
    "torch": {"version": "2.9.0", "built for CUDA": "13.0", "gpus": ["H200"]},
    "tables": {"version": "20.0"},
    "images": {"decoded": ["jpeg", "png"], "failed": {"avif": "OSError: encoder not available"}},
    "video": {
        "version": "15.0",
        "libraries": {"libavcodec": "61.0.0"},
        "backend": "pyav",
        "codecs": ["h264"],
        "missing": ["av1"],
    },
    "audio": {"decoded": ["wav"], "failed": {}},
    "stores": {"version": "2026.1", "open": ["file"], "missing": {"s3": "Install s3fs to access S3"}},
    "training": {"transformers": "5.0", "kernel": "torch's varlen_attn"},
    "dali": {"version": "2.4", "made": [3, 8, 12]},
    "kernels": {"compiled": True, "level": 2, "called": True},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_package_that_is_broken_is_told_of_and_not_suffered(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = BROKEN[name]
    (tmp_path / f"pkg_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = doctor.ask(f"pkg_{name}", seconds=3.0 if name == "hangs" else 60.0)
    assert answer.found is None
    assert told in answer.failure
    assert answer.missing == ("not_there_at_all" if name == "lacks" else None)


def test_a_package_that_shouts_is_heard_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shouts.py").write_text("import os\nprint('{}')\nos.write(1, b'noise')\n__version__ = '1.2'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert doctor.ask("shouts").found == {"version": "1.2"}


def test_probes_use_what_they_name() -> None:
    """In a process of their own, as the command runs them."""
    assert doctor.ask("tables").found == probes.tables()
    found = doctor.ask("images").found or {}
    assert {"jpeg", "png", "webp"} <= set(found["decoded"])


def _answers(monkeypatch: pytest.MonkeyPatch, **changed: Answer) -> None:
    """Let probes answer so; packages that are optional are all there, and work."""

    def ask(name: str, seconds: float = 0) -> Answer:
        return changed.get(name) or Answer(found=GOOD.get(name, {"version": "1.0"}))

    monkeypatch.setattr(doctor, "ask", ask)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    code = doctor.main(["--json", *arguments])
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] == (code == 0)
    return code, {check["name"]: check for check in said["checks"]}


def test_all_is_well(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _answers(monkeypatch)
    code, checks = _run(capsys)
    assert code == 0
    assert "H200" in checks["torch"]["detail"]
    assert checks["image_decoder: auto"]["detail"] == "dali on the GPU"
    assert checks["video"]["detail"].startswith("decoded by pyav")
    assert checks["images: avif"]["state"] == checks["video: av1"]["state"] == "note"
    assert {"cores", "memory", "open files", "disk", "/dev/shm"} <= set(checks)
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == "all that is required works"
    assert max(map(len, shown.splitlines())) <= 200


@pytest.mark.parametrize(
    ("probe", "answer", "state", "told"),
    [
        ("torch", Answer(missing="torch", failure="No module named 'torch'"), "missing", "pip install 'torch>="),
        ("torch", Answer(failure="OSError: libcudart"), "broken", "pip install --force-reinstall 'torch>="),
        ("video", Answer(failure="crashed: SIGSEGV"), "broken", "pip install --force-reinstall 'av>="),
        ("training", Answer(missing="regex", failure="No module named 'regex'"), "missing", "pip install regex"),
        ("images", Answer(found={"decoded": [], "failed": {"jpeg": "bad"}}), "broken", ""),
    ],
)
def test_what_is_required_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    probe: str,
    answer: Answer,
    state: str,
    told: str,
) -> None:
    _answers(monkeypatch, **{probe: answer})
    code, checks = _run(capsys)
    assert (code, checks[probe]["state"]) == (1, state)
    assert told in checks[probe]["remedy"]
    assert not told or checks[probe]["remedy"].startswith(sys.executable)
    if probe == "torch":
        assert checks["image_decoder: auto"]["detail"] == "unknown, since torch does not work"


def test_kernels_that_were_not_compiled_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.ask("kernels").found == probes.kernels()
    for found, state, told in (
        ({"compiled": True, "level": 2, "called": True}, "ok", "those for AVX-512"),
        ({"compiled": True, "level": 1, "called": True}, "ok", "those for AVX2"),
        ({"compiled": True, "level": 0, "called": False}, "ok", "torch resizes"),
        ({"compiled": True, "level": 2, "called": False}, "ok", "as its headers were not there"),
        ({"compiled": False, "wanted": True, "older": False}, "missing", "no C compiler"),
        ({"compiled": False, "wanted": True, "older": True}, "missing", "of another version"),
        ({"compiled": False, "wanted": False, "older": True}, "note", "MMDATA_NATIVE=0"),
    ):
        _answers(monkeypatch, kernels=Answer(found=found))
        code, checks = _run(capsys)
        assert (code, checks["kernels"]["state"]) == (0, state)
        assert told in checks["kernels"]["detail"]
    _answers(monkeypatch, kernels=Answer(failure="crashed: SIGILL"))
    code, checks = _run(capsys)
    assert (code, checks["kernels"]["state"]) == (1, "broken")
    assert "MMDATA_NATIVE=0" in checks["kernels"]["detail"]


def test_what_is_optional_does_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _answers(monkeypatch, dali=Answer(failure="crashed: SIGSEGV"), ray=Answer(failure="ImportError: x"))
    code, checks = _run(capsys)
    assert (code, checks["dali"]["state"], checks["ray"]["state"]) == (0, "broken", "broken")
    assert "set image_decoder: cpu" in checks["image_decoder: auto"]["detail"], "it would be chosen, and fail"
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    code, checks = _run(capsys)
    assert (code, checks["dali"]["state"], checks["ray"]["state"]) == (0, "missing", "missing")
    assert "pip install 'ray[default]>=2.40'" in checks["ray"]["remedy"]
    assert checks["image_decoder: auto"]["detail"] == "the CPU (DALI is not installed)"


def test_what_the_machine_does_not_grant_is_noted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _answers(monkeypatch)
    monkeypatch.setattr(machine, "cores", lambda: machine.Cores(there=64, allowed=64, quota=2.0))
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(there=64 << 30, limit=1 << 30))
    monkeypatch.setattr(machine, "open_files", lambda: (256, 10_000))
    monkeypatch.setattr(machine, "room", lambda path: (1 << 20, 1 << 40))
    code, checks = _run(capsys, "--folder", str(tmp_path))
    assert code == 0
    assert {checks[name]["state"] for name in ("cores", "memory", "open files", "disk", "/dev/shm")} == {"note"}
    assert checks["cores"]["remedy"] == "set engine.workers: 2 in builds"
    assert checks["open files"]["remedy"].startswith("ulimit -n 10000")
    assert "--shm-size" in checks["/dev/shm"]["remedy"]


def test_old_and_missing_packages_are_told_with_the_command_that_mends_them(monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"av": "14.2", "torch": "2.14.0+cu130"}

    def version(name: str) -> str:
        if name not in have:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return have[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda _: ["av>=15.0", "torch>=2.6", "ftfy>=6.2", "x; a"]
    )
    found = {check.name: check for check in doctor._requirements()}
    assert {name: check.state for name, check in found.items()} == {"av": "broken", "ftfy": "missing"}
    assert found["av"].remedy == f"{sys.executable} -m pip install --upgrade 'av>=15.0'"


@pytest.mark.soak
def test_this_environment_works(capsys: pytest.CaptureFixture[str]) -> None:
    code, checks = _run(capsys)
    assert code == 0, [check for check in checks.values() if check["state"] == "broken"]
