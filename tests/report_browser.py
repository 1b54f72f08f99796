"""Headless Chromium over its DevTools protocol: pictures and facts of a page at a width and colour scheme."""

from __future__ import annotations

import base64
import io
import itertools
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-extensions", "--disable-dev-shm-usage", "--mute-audio",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
MEASURE = """({
    title: document.title,
    viewport: document.documentElement.clientWidth,
    content: Math.max(document.documentElement.scrollWidth, document.body.scrollWidth),
    height: document.documentElement.scrollHeight,
    wide: [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right
        > document.documentElement.clientWidth + 0.5 && !e.closest('.hidden')).map(e => e.outerHTML.slice(0, 120)),
    clipped: [...document.querySelectorAll('.sheet, .tiles > div, .reason, .chart, .kept > li, td, th, h1')].filter(
        e => e.scrollWidth > e.clientWidth + 1 && e.clientWidth).map(e => e.outerHTML.slice(0, 120)),
    ground: getComputedStyle(document.body).backgroundColor,
    broken: [...document.images].filter(i => !i.complete || !i.naturalWidth || !i.alt).length,
    pictures: document.images.length,
    sounds: [...document.querySelectorAll('audio')].map(a => a.error ? -1 : a.duration),
    scripts: document.scripts.length,
    handlers: [...document.querySelectorAll('*')].filter(
        e => [...e.attributes].some(a => a.name.startsWith('on'))).length,
    links: [...document.links].map(a => [a.getAttribute('href'), a.rel]),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    requests: performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).map(e => e.name),
})"""


@dataclass(frozen=True, kw_only=True)
class Shot:
    picture: Image.Image
    facts: dict[str, Any]


async def shoot(page: Path, sizes: tuple[tuple[int, int], ...], *, whole: bool = False) -> dict[tuple[int, str], Shot]:
    """The page at each (width, height), in `light` and `dark`; `whole` takes all of it, not the first screen."""
    assert BINARY is not None
    shots = {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [BINARY, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            address = f"http://127.0.0.1:{_port(Path(profile), process)}"
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{address}/json/list") as answer:
                    target = next(item for item in await answer.json() if item["type"] == "page")
                async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    call = _caller(socket)
                    await call("Page.enable")
                    for width, height in sizes:
                        for scheme in ("light", "dark"):
                            shots[width, scheme] = await _shot(call, page, width, height, scheme, whole)
        finally:
            process.kill()
            process.wait()
    return shots


def _port(profile: Path, process: subprocess.Popen[bytes], patience: float = 60.0) -> str:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        assert process.poll() is None, f"Chromium ended with {process.returncode}"
        lines = (
            (profile / "DevToolsActivePort").read_text().split() if (profile / "DevToolsActivePort").exists() else []
        )
        if lines:
            return lines[0]
        time.sleep(0.05)
    raise TimeoutError("Chromium opened no DevTools port")


def _caller(socket: aiohttp.ClientWebSocketResponse) -> Any:
    numbers = itertools.count(1)

    async def call(method: str, **parameters: Any) -> Any:
        number = next(numbers)
        await socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await socket.receive_json(timeout=60)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    return call


async def _shot(call: Any, page: Path, width: int, height: int, scheme: str, whole: bool) -> Shot:
    phone = width < 600
    await call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
    await call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await call("Page.navigate", url=page.resolve().as_uri())
    loaded = "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', () => done()))"
    await call("Runtime.evaluate", expression=loaded, awaitPromise=True)
    facts = (await call("Runtime.evaluate", expression=MEASURE, returnByValue=True))["result"]["value"]
    clip = {"clip": {"x": 0, "y": 0, "width": width, "height": facts["height"], "scale": 1}} if whole else {}
    data = (await call("Page.captureScreenshot", captureBeyondViewport=whole, **clip))["data"]
    return Shot(picture=Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), facts=facts)
