"""A headless Chromium, driven over its debugging pipe."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.picture import BROWSER
from tests.timing import PATIENCE

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


class Browser:
    """One page of a headless Chromium; commands are JSON, ended by a zero byte, over two pipes."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-pipe", "about:blank"]
        # Chromium speaks on its descriptors 3 and 4; a shell puts the pipes there.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._number, self._session = b"", 0, None
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        self.process.terminate()
        self.process.wait(PATIENCE)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (found := self._receive()).get("id") != self._number:
            self.events.append(found)
        assert "error" not in found, found
        return dict(found["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser is gone"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    def open(self, page: Path, fragment: str = "") -> None:
        for url in ("about:blank", page.as_uri() + fragment):  # the first, or only the fragment would change
            self.events.clear()
            self.send("Page.navigate", url=url)
            while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
                self.events.append(self._receive())

    def ask(self, expression: str) -> Any:
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def complaints(self) -> list[dict[str, Any]]:
        """What the page threw, logged, or asked of a network."""
        self.ask("0")
        methods = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        found = [event for event in self.events if event.get("method") in methods]
        requests = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in requests]
        return found + [{"url": url} for url in urls if not url.startswith(("file:", "about:", "data:"))]

    def point(self, kind: str, share: float, chart: str = "loss", **more: Any) -> None:
        """Send a mouse event to the middle of a chart's plot, `share` of its width from the left."""
        box = self.ask(
            f"(() => {{ const plot = document.querySelector('#{chart} .plot');"
            " plot.scrollIntoView({block: 'center'}); const b = plot.getBoundingClientRect();"
            " return [b.left, b.top, b.width, b.height]; })()"
        )
        x, y = box[0] + share * box[2], box[1] + box[3] / 2
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, start: float, end: float) -> None:
        pressed = {"button": "left", "buttons": 1, "clickCount": 1}
        self.point("mousePressed", start, **pressed)
        self.point("mouseMoved", end, **pressed)
        self.point("mouseReleased", end, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key)

    def show(self, width: int, *, height: int = 900, dark: bool = False, script: bool = True) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.send("Emulation.setScriptExecutionDisabled", value=not script)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(
            base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"])
        )
