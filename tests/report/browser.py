"""A headless Chromium looking at a page: what it complains of, what is broken or too wide, a screenshot.

It is driven by its DevTools protocol over a pipe: JSON messages that end in a zero byte.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MOST_S = 60.0  # of any answer
TALLEST_PX = 12_000  # of a screenshot

_FLAGS = ("--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-background-networking", "--no-first-run")
_LOOK = """(() => {
  const problems = [], boxed = element => element.closest(".scroll, svg");
  for (const image of document.images)
    if (!image.complete || !image.naturalWidth) problems.push(`broken image ${image.getAttribute("src")}`);
  for (const link of document.querySelectorAll('a[href^="#"]'))
    if (!document.getElementById(decodeURIComponent(link.hash.slice(1)))) problems.push(`broken link ${link.hash}`);
  const width = WIDTH, root = document.documentElement;
  if (root.scrollWidth > width) {
    const wide = [...document.body.querySelectorAll("*")].filter(
      element => !boxed(element) && element.getBoundingClientRect().right > width + 0.5);
    const names = wide.map(element => `${element.tagName.toLowerCase()}.${element.className}`);
    problems.push(`${root.scrollWidth} px wide on a screen of ${width} px: ${[...new Set(names)].slice(0, 5)}`);
  }
  return {
    problems,
    files: [...document.querySelectorAll("a[href]")].map(link => link.href).filter(href => href.startsWith("file:")),
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
  };
})()"""


class Look(NamedTuple):
    """problems: errors of the console, what could not be loaded, broken images and links, a page wider than the
    screen. Colours are those of the page's body."""

    problems: list[str]
    background: str
    ink: str


@dataclass
class Browser:
    """Blocks until the browser has answered; one page at a time."""

    to_browser: int
    from_browser: int
    _last_id: int = 0
    _received: bytes = b""
    _events: list[dict[str, Any]] = field(default_factory=list)

    def look(self, page: Path, screenshot: Path, *, width: int, is_dark: bool = False) -> Look:
        """Open a page as a screen of this width shows it, everything unfolded, and keep a picture of it."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable", session)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", session, features=[scheme])
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", session, **screen)
        self._events.clear()
        self._call("Page.navigate", session, url=page.resolve().as_uri())
        self._wait_for("Page.loadEventFired")
        self._run(session, "for (const folded of document.querySelectorAll('details')) folded.open = true")
        found = self._run(session, _LOOK.replace("WIDTH", str(width)))
        size = self._call("Page.getLayoutMetrics", session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": min(size["height"], TALLEST_PX), "scale": 1}
        picture = self._call("Page.captureScreenshot", session, captureBeyondViewport=True, clip=clip)["data"]
        screenshot.parent.mkdir(parents=True, exist_ok=True)
        screenshot.write_bytes(base64.b64decode(picture))
        files = [Path(unquote(urlsplit(url).path)) for url in found["files"]]
        broken = [f"broken link {path}" for path in files if not path.is_file()]
        problems = [*filter(None, map(_complaint, self._events)), *found["problems"], *broken]
        self._call("Target.closeTarget", targetId=target)
        return Look(problems, found["background"], found["ink"])

    def _run(self, session: str, script: str) -> Any:
        answer = self._call("Runtime.evaluate", session, expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        os.write(self.to_browser, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._last_id:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])
            self._events.append(answer)
        raise AssertionError("messages end only by an error")

    def _wait_for(self, event: str) -> None:
        if any(seen.get("method") == event for seen in self._events):
            return
        for seen in self._messages():
            self._events.append(seen)
            if seen.get("method") == event:
                return

    def _messages(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + MOST_S
        while True:
            while b"\0" in self._received:
                message, _, self._received = self._received.partition(b"\0")
                yield json.loads(message)
            if not select.select([self.from_browser], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser did not answer within {MOST_S:.0f} s")
            received = os.read(self.from_browser, 1 << 16)
            if not received:
                raise ConnectionError(f"{CHROMIUM} ended; run it by hand to see why")
            self._received += received


@contextmanager
def headless(profile: Path) -> Iterator[Browser]:
    """Start Chromium with a profile folder of its own; ended with the block."""
    assert CHROMIUM is not None
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs_in, theirs_out)]  # clear of 3 and 4, which it uses
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", CHROMIUM, *_FLAGS, *root]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=high,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for fd in (theirs_in, theirs_out, *high):
        os.close(fd)
    try:
        yield Browser(ours_out, ours_in)
    finally:
        os.close(ours_out)  # Chromium ends when its pipe does
        os.close(ours_in)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _complaint(event: dict[str, Any]) -> str | None:
    params = event.get("params", {})
    match event.get("method"):
        case "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            return f"error: {details.get('exception', {}).get('description', details['text'])}"
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
            return f"console: {' '.join(str(each.get('value')) for each in params['args'])}"
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            return f"console: {params['entry']['text']} {params['entry'].get('url', '')}"
        case "Network.loadingFailed":
            return f"not loaded: {params['errorText']}"
    return None
