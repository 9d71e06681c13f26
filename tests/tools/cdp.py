"""A real browser, driven through the Chrome DevTools Protocol over a pair of pipes.

Names of methods and events: chromedevtools.github.io/devtools-protocol (tot, 2026-11).
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from servers import DEADLINE, alive, eventually

__all__ = ["FLAGS", "Browser", "Tab", "chromium"]

Json = dict[str, Any]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run --no-proxy-server "
    "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps --disable-extensions"
).split()

_START = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in sys.argv[1:3])
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Makes file descriptors 3 and 4 of the pipes, where Chromium looks for them."""

KEYS = {
    "Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " "), "ArrowRight": (39, ""), "ArrowLeft": (37, ""), "ArrowDown": (40, ""),
    "End": (35, ""), "Home": (36, ""), "Escape": (27, ""),
}  # fmt: skip
"""key: its Windows key code, and the text that it types"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")
    return found


class Browser:
    """One Chromium process; ``tab`` opens pages in it. A context manager."""

    def __init__(self, program: str, directory: Path) -> None:
        self._log = (directory / "chromium.log").open("w+")
        ours, theirs = os.pipe(), os.pipe()
        command = [program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={directory}/profile", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(ours[0]), str(theirs[1]), *command],
            env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            pass_fds=(ours[0], theirs[1]),
            start_new_session=True,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        self._held = b""
        self._numbers = itertools.count(1)
        self._answers: dict[int, Json] = {}
        self.events: list[Json] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # the group that it leads: all its helpers
        self._process.wait(DEADLINE)
        eventually(lambda: not alive(self._process.pid), "the browser to end")
        for fd in (self._write, self._read):
            os.close(fd)
        self._log.close()

    def send(self, method: str, session: str | None = None, **params: Any) -> Any:
        """The result of a command; AssertionError for an error or a silence."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        end = time.monotonic() + 3 * DEADLINE
        while number not in self._answers:
            self.listen(max(0.0, end - time.monotonic()))
            assert time.monotonic() < end, f"no answer to {method}\n{self.log()}"
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer.get("error"))
        return answer["result"]

    def listen(self, seconds: float) -> None:
        """Takes what the browser says within *seconds*, until something comes."""
        if not select.select([self._read], [], [], seconds)[0]:
            return
        piece = os.read(self._read, 1 << 20)
        assert piece, f"the browser ended by itself\n{self.log()}"
        *messages, self._held = (self._held + piece).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self.events.append(message)

    def log(self) -> str:
        """The end of what the browser wrote."""
        self._log.flush()
        return Path(self._log.name).read_text("utf-8", "replace")[-3000:]

    def tab(self) -> Tab:
        """A tab in a profile of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        tab = Tab(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            tab.send(f"{domain}.enable")
        return tab


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **params: Any) -> Any:
        return self._browser.send(method, self._session, **params)

    def open(self, url: str, *, language: str = "en-US", scheme: str = "light", width: int = 1280) -> Tab:
        """Opens *url*; *language* is the browser's, *scheme* light or dark, *width* in CSS pixels: below 500 it is a phone's."""
        agent = self._browser.send("Browser.getVersion")["userAgent"].replace("Headless", "")
        self.send("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500)
        self.go(url)
        return self

    def go(self, url: str) -> None:
        """Opens *url* anew, and waits until it is there."""
        self.send("Page.navigate", url="about:blank")  # another fragment alone would load nothing
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, awaited."""
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until a JavaScript expression is true."""
        script = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"  # a page may be on its way
        eventually(lambda: self.run(script), condition)

    def press(self, key: str, *, shift: bool = False) -> None:
        """One key of the keyboard."""
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.send("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """A click of the mouse on the middle of an element."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def text(self, selector: str) -> str:
        """The text of an element as it is seen."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def messages(self) -> list[str]:
        """What stands in the console, and exceptions that nothing caught."""
        self.run("1")
        found = []
        for event in self._browser.events:
            if event.get("sessionId") == self._session:
                params = event["params"]
                if event["method"] == "Runtime.consoleAPICalled":
                    found.append(str(params["args"]))
                elif event["method"] == "Runtime.exceptionThrown":
                    found.append(str(params["exceptionDetails"]))
                elif event["method"] == "Log.entryAdded":
                    found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Writes what is seen, or the *whole* page, as PNG."""
        path.write_bytes(b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
