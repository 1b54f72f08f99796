"""The process that has the report ready to be made: the same result, whatever becomes of it."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmdata.errors import DataError
from mmdata.report_page.ahead import Reporter, make

from .. import report_fixture as fixture

# A process of its own: this one may have threads, and then none is forked.
FORK = """
import os, pickle, signal, sys
from pathlib import Path
from mmdata.report_page.ahead import Reporter
with Reporter() as reporter:
    folder, manifest, run = pickle.loads(Path(sys.argv[1]).read_bytes())
    assert reporter._pid is not None
    {deed}
    sys.stdout.buffer.write(pickle.dumps((reporter.make(folder, manifest, run, seed=3), "jinja2" in sys.modules)))
"""


def forked(tmp_path: Path, deed: str = "pass") -> subprocess.CompletedProcess[bytes]:
    folder = tmp_path / "dataset"
    manifest = fixture.write_dataset(folder, publish=False)
    (tmp_path / "given").write_bytes(pickle.dumps((folder, manifest, fixture.RUN)))
    program = FORK.format(deed=deed)
    return subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "given")], capture_output=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("deed", "itself"),
    [("pass", False), ("os.kill(reporter._pid, signal.SIGKILL)", True), ("reporter._pid = None", True)],
)
def test_the_report_is_the_same_whoever_makes_it(tmp_path: Path, deed: str, itself: bool) -> None:
    done = forked(tmp_path, deed)
    assert done.returncode == 0, done.stderr
    made, loaded = pickle.loads(done.stdout)
    folder, manifest, run = pickle.loads((tmp_path / "given").read_bytes())
    assert made == make(folder, manifest, run, seed=3)
    assert loaded == itself


def test_damage_is_told_as_ever(tmp_path: Path) -> None:
    done = forked(tmp_path, "path = next((folder / 'ledger').iterdir()); path.write_bytes(b'PAR1' + path.read_bytes())")
    assert done.returncode != 0
    assert "DataError" in done.stderr.decode()
    assert "ledger" in done.stderr.decode().splitlines()[-1]


def test_it_ends_with_the_one_who_forked_it() -> None:
    program = (
        "import os, signal\n"
        "from mmdata.report_page.ahead import Reporter\n"
        "print(Reporter()._pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=60)
    pid = int(done.stdout)
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("it outlived its parent")


def test_nothing_is_forked_beside_threads(tmp_path: Path) -> None:
    import threading

    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with Reporter() as reporter:
            assert reporter._pid is None
            with pytest.raises(DataError):
                reporter.make(tmp_path, fixture.write_dataset(tmp_path / "other", publish=False), {}, seed=0)
    finally:
        end.set()
        thread.join()
