"""A headless Chromium that opens a page and says what it finds, over the DevTools protocol on a pair of pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # it refuses to run as root otherwise, and opens nothing but our own page
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--hide-scrollbars",
)
# It takes commands from descriptor 3 and answers on 4: both pipes go above these first, wherever they are, then there.
_LAUNCHER = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]]
for to, pipe in enumerate(pipes, start=3):
    os.dup2(pipe, to)
os.execv(sys.argv[3], sys.argv[3:])
"""
SECONDS = 60  # for an answer: many times what a loaded machine needs


def find_chromium():
    """The path of the program; None where there is none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@contextmanager
def open_chromium(program, folder):
    """Starts it with a profile in `folder`, and ends it."""
    to_read, to_write = os.pipe(), os.pipe()
    command = [sys.executable, "-ISc", _LAUNCHER, str(to_read[0]), str(to_write[1]), program, *FLAGS]
    command += [f"--user-data-dir={folder}", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, pass_fds=(to_read[0], to_write[1]), stdout=log, stderr=log)
    os.close(to_read[0])
    os.close(to_write[1])
    try:
        yield _Pipes(to_read[1], to_write[0])
    finally:
        os.close(to_read[1])
        process.terminate()
        process.wait(timeout=SECONDS)
        os.close(to_write[0])


class _Pipes:
    """Commands out, answers and events in; a message is JSON that ends with a zero byte."""

    def __init__(self, commands, answers):
        self.commands, self.answers = commands, answers
        self.rest = b""
        self.number = 0
        self.events = []

    def ask(self, method, session=None, **parameters):
        """Sends a command and waits for its answer; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        until = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.answers], [], [], max(0, until - time.monotonic()))
            part = os.read(self.answers, 1 << 20) if ready else b""
            assert part, "Chromium gave no answer"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A page that has been opened, at some width and in some theme."""

    def __init__(self, browser, url, width=1280, height=900, theme="light"):
        self.browser = browser
        browser.events.clear()
        target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        scheme = {"name": "prefers-color-scheme", "value": theme}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=url)
        until = time.monotonic() + SECONDS
        while self.evaluate("document.readyState") != "complete" or self.evaluate("location.href") != url:
            assert time.monotonic() < until, f"{url} does not load"

    def ask(self, method, **parameters):
        return self.browser.ask(method, self.session, **parameters)

    def evaluate(self, expression):
        """The value of a JavaScript expression, as JSON has it."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def requests(self):
        """Addresses that were asked for."""
        events = [each for each in self.browser.events if each.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in events]

    @property
    def complaints(self):
        """What the console says: messages, errors, and violations of the page's own policy."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event for event in self.browser.events if event.get("method") in kinds]

    def picture(self, whole=False):
        """What is seen, as the bytes of a PNG file."""
        found = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pdf(self):
        """What a printer gets, as the bytes of a PDF file."""
        return base64.b64decode(self.ask("Page.printToPDF", printBackground=True)["data"])
