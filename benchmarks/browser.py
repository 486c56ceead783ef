"""A headless Chromium that opens a page and says when it was ready, over the pipe of its debugger."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from base64 import b64decode
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_READY = """new Promise((done) => {
  const look = () => {
    const seen = [...document.querySelectorAll(".plot")].filter((plot) => {
      const { top, bottom } = plot.getBoundingClientRect();
      return top < innerHeight && bottom > 0;
    });
    const drawn = seen.every((plot) => plot.querySelector(".main-svg"));
    document.readyState === "complete" && drawn ? requestAnimationFrame(done) : setTimeout(look, 5);
  };
  look();
})"""
"""Resolves when the page is loaded and every figure in sight is drawn."""


def find() -> str | None:
    """The browser's program: $CHROMIUM, or the first of NAMES on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One browser with one tab, `width` × `height` CSS pixels."""

    def __init__(self, program: str, width: int = 1200, height: int = 900) -> None:
        self._profile = TemporaryDirectory(prefix="fedsim-browser-", ignore_cleanup_errors=True)
        theirs, self._to = os.pipe()
        self._from, answers = os.pipe()
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={self._profile.name}", "--remote-debugging-pipe", "about:blank",
        ]  # fmt: skip
        # The debugger reads from 3 and writes to 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers}', "bash", *command],
            pass_fds=(theirs, answers), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self._buffer, self._number, self._session = b"", 0, ""
        targets = self._call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, path: Path) -> float:
        """Seconds from asking for the page to its last figure in sight."""
        began = time.perf_counter()
        self._call("Page.navigate", url=path.resolve().as_uri())
        self.run(_READY)
        return time.perf_counter() - began

    def run(self, script: str) -> Any:
        """The value of an expression, waited for."""
        found = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return found["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is in sight, or the whole page, as PNG."""
        picture = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(b64decode(picture["data"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers; its other events are passed over."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._line())
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return dict(answer["result"])

    def _line(self) -> bytes:
        while b"\0" not in self._buffer:
            part = os.read(self._from, 1 << 20)
            if not part:
                raise RuntimeError("the browser has ended")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        return line
