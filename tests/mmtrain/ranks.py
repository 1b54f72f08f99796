"""The command on several processes of this machine, forks of one that has imported everything: torchrun without its
start, for tests."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from mmtrain import sft

multiprocessing.set_forkserver_preload(["mmtrain.sft", "tests.mmtrain.ranks"])


def start(ranks: int, told: list[str], output: Path, main: Callable[[list[str]], int] = sft.main) -> list[BaseProcess]:
    """Start the command on so many ranks, two of them on a node; what each says goes to `output/rank-N.txt`."""
    output.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    processes: list[BaseProcess] = [
        context.Process(target=_rank, args=(main, rank, ranks, port, told, output / f"rank-{rank}.txt"))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def run(ranks: int, told: list[str], output: Path, main: Callable[[list[str]], int] = sft.main) -> str:
    """Run the command to its end on so many ranks; what all of them said. Fails where one fails."""
    processes = start(ranks, told, output, main)
    codes = wait(processes)
    said = "\n".join((output / f"rank-{rank}.txt").read_text() for rank in range(ranks))
    assert codes == [0] * ranks, f"{codes}\n{said[-4000:]}"
    return said


def wait(processes: list[BaseProcess], seconds: float = 300) -> list[int | None]:
    """The exit codes; what does not end in time is killed and has -9."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _rank(main: Callable[[list[str]], int], rank: int, ranks: int, port: int, told: list[str], log: Path) -> None:
    import torch

    torch.set_num_threads(1)
    # A process of a fork server starts others by one of its own, which would import everything anew for each worker of
    # a DataLoader. One of torchrun's has the platform's method.
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": min(2, ranks),
        "MASTER_PORT": port,
    }
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in place.items()}}
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main(told)
    except BaseException:
        said.write(traceback.format_exc())
        raise
    finally:
        log.write_text(said.getvalue())
    raise SystemExit(code)
