"""Every behaviour of the fault server, seen through raw sockets and urllib."""

from __future__ import annotations

import concurrent.futures
import email.utils
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mmdata.testing import plan as plans
from mmdata.testing.server import FaultServer

BODY = bytes(range(256)) * 40
HEADERS = {"User-Agent": "test-agent/1"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(BODY)
    (tmp_path / "secret.txt").write_text("not served")
    return folder


def paths(**behaviours: Any) -> dict[str, Any]:
    """A plan for one origin: a keyword `late` is the path `/late`."""
    return {"origins": {"main": {"paths": {f"/{name}": value for name, value in behaviours.items()}}}}


def get(url: str) -> tuple[int, bytes, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=HEADERS), timeout=10) as answer:
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
    except urllib.error.HTTPError as error:
        return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}


def connect(url: str, timeout: float = 5) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout)


def raw(url: str, path: str, *, method: str = "GET", timeout: float = 5) -> bytes:
    """All bytes of one answer, until the server ends the connection. Raises what the socket raises."""
    with connect(url, timeout) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return read_all(client, bytearray())


def read_all(client: socket.socket, received: bytearray) -> bytes:
    """Read until the end; what came before an error is in `received`."""
    while data := client.recv(65536):
        received += data
    return bytes(received)


def split(answer: bytes) -> tuple[bytes, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first.encode(), {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}, body


def test_files_statuses_and_log(root: Path) -> None:
    with FaultServer(root, paths(gone={"status": 410})) as server:
        start = time.time()
        assert get(server.url + "/a.jpg")[:2] == (200, BODY)
        assert get(server.url + "/a.jpg?size=2")[:2] == (200, BODY)
        assert get(server.url + "/a.jpg")[2]["content-type"] == "image/jpeg"
        assert get(server.url + "/missing.jpg")[0] == 404
        assert get(server.url + "/gone")[0] == 410
        assert get(server.url + "/robots.txt")[0] == 404
        log = server.log()
        assert [(r.path, r.status) for r in log] == [
            ("/a.jpg", 200),
            ("/a.jpg?size=2", 200),
            ("/a.jpg", 200),
            ("/missing.jpg", 404),
            ("/gone", 410),
            ("/robots.txt", 404),
        ]
        assert all(r.user_agent == "test-agent/1" and r.method == "GET" and r.origin == "main" for r in log)
        assert all(start - 1 <= r.time <= time.time() + 1 and r.active == 1 for r in log)
        server.clear_log()
        assert get(server.url + "/a.jpg")[0] == 200
        assert len(server.log()) == 1
    assert len(server.log()) == 1  # the log outlives the server
    assert server.errors() == ""


def test_the_root_is_not_left(root: Path) -> None:
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    with FaultServer(root) as server:
        for path in ("/../secret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/link.txt", "/a%00b", "/."):
            assert split(raw(server.url, path))[0] == b"HTTP/1.1 404 Not Found", path


def test_recovers_after_n_failures(root: Path) -> None:
    plan = paths(
        late=[{"status": 500, "times": 2}, {"file": "a.jpg"}],
        busy=[{"status": 429, "headers": {"Retry-After": "1"}, "times": 1}, {"status": 503}, {"file": "a.jpg"}],
    )
    with FaultServer(root, plan) as server:
        assert [get(server.url + "/late")[0] for _ in range(4)] == [500, 500, 200, 200]
        assert get(server.url + "/late")[1] == BODY
        status, _, headers = get(server.url + "/busy")
        assert (status, headers["retry-after"]) == (429, "1")
        assert [get(server.url + "/busy")[0] for _ in range(3)] == [503, 200, 200]
        url = server.url
        server.restart()
        assert server.url == url
        assert get(server.url + "/late")[0] == 500  # counts start again
        server.restart(paths(late={"file": "a.jpg"}))
        assert (server.url, get(server.url + "/late")[0]) == (url, 200)
        assert len(server.log()) == 11  # the log goes on


def test_retry_after_as_a_date(root: Path) -> None:
    with FaultServer(root, paths(busy={"status": 429, "retry_after_date": 60})) as server:
        date = email.utils.parsedate_to_datetime(get(server.url + "/busy")[2]["retry-after"])
        assert 50 < date.timestamp() - time.time() < 61


def test_headers_and_content_types(root: Path) -> None:
    plan = paths(
        no={"file": "a.jpg", "headers": {"X-Robots-Tag": "noai, noimageai", "TDM-Reservation": "1"}},
        html={"body": "<html>sorry</html>", "content_type": "image/jpeg"},
        empty={"body": ""},
    )
    with FaultServer(root, plan) as server:
        _, body, headers = get(server.url + "/no")
        assert (body, headers["x-robots-tag"], headers["tdm-reservation"]) == (BODY, "noai, noimageai", "1")
        _, body, headers = get(server.url + "/html")
        assert (body, headers["content-type"]) == (b"<html>sorry</html>", "image/jpeg")
        assert get(server.url + "/empty")[:2] == (200, b"")


def test_robots_and_redirects_per_origin(root: Path) -> None:
    plan = {
        "origins": {
            "open": {"paths": {"/go": {"redirect": "{closed}/a.jpg", "status": 301}, "/loop": {"redirect": "/loop"}}},
            "closed": {"paths": {"/robots.txt": {"body": "User-agent: *\nDisallow: /\n"}}},
            "other": {"host": "127.0.0.1", "paths": {"/bad": {"redirect": "file:///etc/passwd"}}},
        }
    }
    with FaultServer(root, plan) as server:
        assert len(set(server.urls.values())) == 3
        assert get(server.urls["open"] + "/robots.txt")[0] == 404
        assert b"Disallow: /" in get(server.urls["closed"] + "/robots.txt")[1]
        first, headers, _ = split(raw(server.url, "/go"))
        assert first == b"HTTP/1.1 301 Moved Permanently"
        assert headers["location"] == server.urls["closed"] + "/a.jpg"
        assert get(server.url + "/go")[:2] == (200, BODY)
        assert split(raw(server.url, "/loop"))[1]["location"] == "/loop"
        assert split(raw(server.urls["other"], "/bad"))[1]["location"] == "file:///etc/passwd"
        assert {r.origin for r in server.log()} == {"open", "closed", "other"}


def test_bodies_that_disagree_with_their_heads(root: Path) -> None:
    plan = paths(
        short={"file": "a.jpg", "send": 100},
        lying={"file": "a.jpg", "declare": 7},
        unsaid={"file": "a.jpg", "declare": "none"},
        chunked={"file": "a.jpg", "declare": "chunked"},
        cut={"file": "a.jpg", "declare": "chunked", "send": 100},
        declared={"body": "", "declare": 10**12},
    )
    with FaultServer(root, plan) as server:
        _, headers, body = split(raw(server.url, "/short"))
        assert (headers["content-length"], body) == (str(len(BODY)), BODY[:100])
        _, headers, body = split(raw(server.url, "/lying"))
        assert (headers["content-length"], body) == ("7", BODY)
        _, headers, body = split(raw(server.url, "/unsaid"))
        assert "content-length" not in headers
        assert body == BODY
        assert get(server.url + "/chunked")[:2] == (200, BODY)
        with pytest.raises(Exception, match="IncompleteRead"):
            get(server.url + "/cut")
        assert split(raw(server.url, "/declared"))[1]["content-length"] == str(10**12)


def test_generated_and_compressed_bodies(root: Path) -> None:
    plan = paths(
        big={"size": 30_000_000, "declare": "none"},
        packed={"file": "a.jpg", "gzip": True},
        bomb={"size": 30_000_000, "gzip": True},
    )
    with FaultServer(root, plan) as server:
        assert len(split(raw(server.url, "/big"))[2]) == 30_000_000
        _, headers, body = split(raw(server.url, "/packed"))
        assert (headers["content-encoding"], gzip.decompress(body)) == ("gzip", BODY)
        _, headers, body = split(raw(server.url, "/bomb"))
        assert len(body) == int(headers["content-length"]) < 100_000
        assert len(gzip.decompress(body)) == 30_000_000


def test_time(root: Path) -> None:
    plan = paths(
        late={"file": "a.jpg", "delay": 0.4},
        drip={"body": "0123456789", "drip_bytes": 2, "drip_seconds": 0.1},
        hang={"instead": "hang"},
        stall={"file": "a.jpg", "send": 50, "end": "hang"},
    )
    with FaultServer(root, plan) as server:
        start = time.monotonic()
        assert get(server.url + "/late")[1] == BODY
        assert 0.4 <= time.monotonic() - start < 3
        start = time.monotonic()
        assert get(server.url + "/drip")[1] == b"0123456789"
        assert 0.4 <= time.monotonic() - start < 3
        with pytest.raises(TimeoutError):
            raw(server.url, "/hang", timeout=0.3)
        assert server.log()[-1].status == 0
        with connect(server.url, 0.5) as client:
            client.sendall(b"GET /stall HTTP/1.1\r\n\r\n")
            received = bytearray()
            with pytest.raises(TimeoutError):
                read_all(client, received)
            assert split(bytes(received))[2] == BODY[:50]


def test_resets_and_closes(root: Path) -> None:
    plan = paths(
        reset={"instead": "reset"},
        close={"instead": "close"},
        middle={"file": "a.jpg", "send": 50, "end": "reset"},
    )
    with FaultServer(root, plan) as server:
        with pytest.raises(ConnectionResetError):
            raw(server.url, "/reset")
        assert raw(server.url, "/close") == b""
        with connect(server.url) as client:
            client.sendall(b"GET /middle HTTP/1.1\r\n\r\n")
            received = bytearray()
            with pytest.raises(ConnectionResetError):
                read_all(client, received)
            assert split(bytes(received))[2] == BODY[:50]


def test_blackhole(root: Path) -> None:
    with FaultServer(root, {"origins": {"main": {}, "hole": {"blackhole": True}}}) as server:
        with pytest.raises(TimeoutError):
            connect(server.urls["hole"], timeout=0.5)
        assert get(server.url + "/a.jpg")[0] == 200


def test_connections_are_kept_and_pipelined(root: Path) -> None:
    with FaultServer(root, paths(drip={"body": "abc", "drip_bytes": 1, "drip_seconds": 0.05})) as server:
        with connect(server.url) as client:
            client.sendall(b"GET /a.jpg HTTP/1.1\r\n\r\nGET /drip HTTP/1.1\r\n\r\nHEAD /a.jpg HTTP/1.1\r\n\r\n")
            client.sendall(b"POST /a.jpg HTTP/1.1\r\n\r\n")
            received = read_all(client, bytearray())
        assert received.count(b"HTTP/1.1 200") == 3
        assert received.count(BODY) == 1
        assert b"\r\n\r\nabcHTTP/1.1 200" in received
        assert received.count(b"HTTP/1.1 405") == 1
        assert [(r.method, r.status) for r in server.log()] == [
            ("GET", 200),
            ("GET", 200),
            ("HEAD", 200),
            ("POST", 405),
        ]
        assert raw(server.url, "/a.jpg", method="nonsense here and").startswith(b"HTTP/1.1 400")
        assert server.errors() == ""


def test_requests_under_way_are_counted(root: Path) -> None:
    with FaultServer(root, paths(late={"file": "a.jpg", "delay": 0.5})) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert [a[0] for a in pool.map(get, [server.url + "/late"] * 8)] == [200] * 8
        assert max(r.active for r in server.log()) == 8
        get(server.url + "/a.jpg")
        assert server.log()[-1].active == 1


def test_many_clients(root: Path) -> None:
    """Counts per path and the log lose nothing when many ask at once."""
    plan = paths(late=[{"status": 503, "times": 100}, {"file": "a.jpg"}])
    with FaultServer(root, plan) as server:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            answers = [a[0] for a in pool.map(get, [server.url + "/late"] * 200)]
        assert sorted(answers) == [200] * 100 + [503] * 100
        assert sorted(r.status for r in server.log()) == sorted(answers)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"origin": {}}, "plan: unknown key 'origin'; known: origins"),
        ({"origins": {}}, "no origins"),
        ({"origins": {"main": {"pots": 1}}}, "main: unknown key 'pots'"),
        (paths(x={"staus": 1}), "main /x: unknown key 'staus'"),
        (paths(x=[]), "main /x: an empty list"),
        (paths(x="gone"), "main /x: 'gone' is not a behaviour"),
        (paths(x={"instead": "explode"}), "main /x: instead: 'explode'"),
        (paths(x={"end": "never"}), "main /x: end: 'never'"),
        (paths(x={"declare": "some"}), "main /x: declare: 'some'"),
        (paths(x={"body": "a", "file": "b"}), "file, body and size"),
        (paths(x={"times": 0}), "times: 0 is less than 1"),
    ],
)
def test_wrong_plans_are_named(plan: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plans.parse(plan)


def test_a_plan_survives_json() -> None:
    plan = plans.parse(
        paths(a=[{"status": 500, "times": 2}, {"headers": {"A": "b"}, "declare": "chunked"}], b={"size": 0})
    )
    assert plans.parse(json.loads(plans.dump(plan))) == plan


def test_a_taken_port_is_one_clear_line(root: Path) -> None:
    with FaultServer(root) as first:
        port = urlsplit(first.url).port
        with pytest.raises(RuntimeError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
            FaultServer(root, {"origins": {"main": {"port": port}}}).start()


def test_it_dies_with_the_process_that_started_it(root: Path) -> None:
    script = (
        "import sys, time; from mmdata.testing.server import FaultServer\n"
        "server = FaultServer(sys.argv[1]).start(); print(server.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    for _ in range(100):
        try:
            os.kill(server, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{server}/stat").exists() and Path(f"/proc/{server}/stat").read_text().split()[2] == "Z":
            return  # dead; nobody is there to collect it
        time.sleep(0.1)
    pytest.fail("the server outlived its parent")


def test_command_line(root: Path, tmp_path: Path) -> None:
    (root / "plan.json").write_text(json.dumps(paths(teapot={"status": 418})))
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "mmdata.testing.server", "--root", str(root), "--port", "0", "--log", str(log)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    name, url = process.stdout.readline().strip().split(": ")
    assert name == "main"
    assert get(url + "/teapot")[0] == 418
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
    assert json.loads(log.read_text())["path"] == "/teapot"
    (root / "plan.json").write_text('{"origins": {"main": {"paths": {"/x": {"staus": 4}}}}}')
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "unknown key 'staus'" in done.stderr
    assert "Traceback" not in done.stderr
