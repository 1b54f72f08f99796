"""The progress display on a real terminal pair, on plain files, and nowhere."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
import time

from mmdata.progress import Progress


def count(progress: Progress, records: int = 100) -> None:
    for number in range(records):
        if number % 4:
            progress.update("ok", "")
        else:
            progress.update("failed_permanent", f"http_{400 + number % 5}" if number % 8 else "where")


def test_plain_lines_come_at_the_interval_and_a_summary_at_the_end():
    out = io.StringIO()
    with Progress(200, interval=0.1, file=out) as progress:
        count(progress)
        time.sleep(0.35)
        progress.commit(0, 75)
    *lines, last = out.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    assert lines[0].startswith("100/200 records (50%), ")
    assert "kept 75.0%, where 13.0%, http_" in lines[0]
    assert lines[0].count("%") == 5  # done, kept, and the three heaviest reasons
    assert re.fullmatch(r"100 records in 0\.\d s \([\d,]+/s\), kept 75\.0%, where .*, 1 unit committed", last)
    assert "\x1b" not in out.getvalue()


def test_remaining_time_follows_the_rate():
    out = io.StringIO()
    with Progress(400, interval=0.3, file=out) as progress:
        for _ in range(130):
            progress.update("ok", "")
            time.sleep(0.01)
    told = re.findall(r"([\d.]+) s left", out.getvalue())
    assert told
    assert 1.5 < float(told[-1]) < 8  # 280 or fewer to go at about 90/s


def test_quiet_says_nothing():
    out = io.StringIO()
    with Progress(10, quiet=True, interval=0.01, file=out) as progress:
        count(progress)
        progress.note("not now")
        time.sleep(0.05)
    assert out.getvalue() == ""


def test_an_unknown_total_and_no_record_at_all():
    out = io.StringIO()
    with Progress(None, interval=0.05, file=out):
        time.sleep(0.12)
    assert out.getvalue().startswith("0 records, 0/s\n")
    assert "0 records in" in out.getvalue().splitlines()[-1]


def test_an_interrupted_run_is_told_as_such():
    out = io.StringIO()
    with contextlib.suppress(KeyboardInterrupt), Progress(100, file=out) as progress:
        count(progress, 3)
        raise KeyboardInterrupt
    assert out.getvalue().startswith("stopped after 3 records in ")


def test_notes_cannot_steer_the_terminal_or_be_read_as_markup():
    out = io.StringIO()
    with Progress(None, file=out) as progress:
        progress.note("[red]robots.txt[/red] \x1b[2J\x07 of é.example")
        progress.update("filtered", "odd\x1b[31m")
    assert out.getvalue().startswith("[red]robots.txt[/red] \ufffd[2J\ufffd of é.example\n")
    assert "\x1b" not in out.getvalue()


def read_all(handle: int, into: list[bytes]) -> None:
    while True:
        try:
            data = os.read(handle, 65536)
        except OSError:  # the other end of a terminal is closed
            return
        if not data:
            return
        into.append(data)


def test_a_terminal_is_redrawn_at_most_four_times_a_second(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    leader, follower = os.openpty()
    seen: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(leader, seen))
    reader.start()
    with os.fdopen(follower, "w") as terminal:
        begin = time.monotonic()
        with Progress(500, file=terminal) as progress:
            assert progress.live
            while time.monotonic() - begin < 1.6:
                progress.update("ok", "")
                progress.update("filtered", "min_side")
                time.sleep(0.01)
        took = time.monotonic() - begin
    reader.join()
    os.close(leader)
    text = b"".join(seen).decode()
    frames = text.count(" of 500 records")
    assert 4 <= frames <= 4 * took + 3  # one more at the start, and two when the display is taken down
    assert "kept 50.0%" in text
    assert "min_side 50.0%" in text
    assert re.search(r"\d+/s", text)
    assert " left" in text
    assert text.rstrip().endswith("0 units committed")


def test_a_reader_that_went_away_does_not_end_the_build():
    reading, writing = os.pipe()
    os.close(reading)
    gone = os.fdopen(writing, "w")
    with Progress(10, interval=0.05, file=gone) as progress:
        count(progress)
        progress.note("anyone there?")
        time.sleep(0.12)
    with contextlib.suppress(BrokenPipeError):  # what it could not write is still in its buffer
        gone.close()


def test_counting_costs_less_than_one_percent_of_a_thousand_records_a_second():
    with Progress(100_000, file=io.StringIO()) as progress:
        begin = time.thread_time()
        count(progress, 100_000)
        each = (time.thread_time() - begin) / 100_000
    assert each < 10e-6  # 1% of a millisecond
