"""A headless Chromium, driven through chromedriver by the W3C WebDriver protocol."""

import base64
import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROMIUM and DRIVER else "no chromium and chromedriver here (Debian: chromium, chromium-driver)"
_FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
]  # fmt: skip


class Browser:
    """One session."""

    def __init__(self, base: str, session: str) -> None:
        self._base = f"{base}/session/{session}"

    def command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _request(method, self._base + path, body)

    def open(self, url: str) -> None:
        self.command("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        return self.command("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, condition: str, *, seconds: float = 20) -> Any:
        """The value of a JavaScript expression once it is true."""
        script = (
            "const done = arguments[arguments.length - 1]; const end = Date.now() + %d;"
            "(function look() { let v; try { v = (%s); } catch (e) { v = null; }"
            "if (v || Date.now() > end) done(v); else setTimeout(look, 50); })();"
        )
        body = {"script": script % (seconds * 1000, condition), "args": []}
        value = self.command("POST", "/execute/async", body)
        assert value, f"never came true: {condition}"
        return value

    def resize(self, width: int, height: int, *, dark: bool) -> None:
        """An inner size in CSS pixels, whatever the window's, and the preferred colours."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def devtools(self, name: str, parameters: dict[str, Any]) -> Any:
        return self.command("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def move(self, x: int, y: int) -> None:
        for step in (2, 0):
            self.devtools("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x + step, "y": y})

    def screenshot(self, path: Path) -> bytes:
        data = base64.b64decode(self.command("GET", "/screenshot"))
        path.write_bytes(data)
        return data

    def console(self) -> list[str]:
        """Messages since the last call, warnings and errors."""
        entries = self.command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    def requests(self) -> list[str]:
        """URLs that were asked for since the last call."""
        entries = self.command("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def _request(method: str, url: str, body: dict[str, Any] | None) -> Any:
    data = None if method == "GET" else json.dumps(body or {}).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from error


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a fresh profile in `profile`; gone afterwards."""
    assert DRIVER and CHROMIUM
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert driver.stdout is not None
        line = next(line for line in driver.stdout if "was started successfully on port" in line)
        base = f"http://127.0.0.1:{int(line.split('port')[1].strip(' .' + chr(10)))}"
        options = {"binary": CHROMIUM, "args": [*_FLAGS, f"--user-data-dir={profile}"]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = _request("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        found = Browser(base, session)
        try:
            yield found
        finally:
            found.command("DELETE", "")
    finally:
        driver.terminate()
        driver.wait(timeout=10)
