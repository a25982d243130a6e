from __future__ import annotations

import base64
import ipaddress
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from conftest import environment
from live_sources import FILM, Opener, ScriptedCapture, ScriptedTracker, ended, picture, wait

from tabrt.drawing import Drawing, draw, face_layers
from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film.reading import open_film
from tabrt.live.camera import LiveCamera
from tabrt.live.run import Run
from tabrt.live.status import State, Status

pytest.importorskip("starlette", reason="needs the extra: pip install 'tabrt[serve]'")
websockets = pytest.importorskip("websockets.sync.client", reason="needs the extra: pip install 'tabrt[serve]'")
from websockets.exceptions import ConnectionClosed, InvalidStatus  # noqa: E402

from tabrt.live.page import CREDIT, PAGE, Page, about, is_loopback  # noqa: E402

LIMIT = 120.0  # seconds that a test waits for something at most
ABOUT = about("<b>desk</b>", "tab1-lite", "onnxruntime")


class Served:
    """A page with scenes given to it in the background, 100 a second, as the live loop does."""

    def __init__(self, host: str = "127.0.0.1", images=None, port: int = 0):
        self.run = Run(LiveCamera(Opener(ScriptedCapture([])), "desk"))
        self.run.note(message="<i>wrote</i>")
        self.server = Page(host, port, self.run, ABOUT)
        self.published = 0
        self.notes: dict[str, object] = {}  # what the status is to say, as the loop's thread alone may
        self._images = images or [picture(9)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()

    @property
    def status(self) -> Status:
        return self.run.status

    def _publish(self) -> None:
        tracker = ScriptedTracker()
        tracker.reset()
        drawing = Drawing(face_layers(tracker.topology))
        for index, image in enumerate(itertools.cycle(self._images)):
            if self._stop.wait(0.01):
                return
            scene = drawing(tracker(Frame(image, index, time.monotonic())))
            self.run.refresh()
            self.run.note(**self.notes)
            self.server(scene)
            self.run.numbers.add(scene)
            self.published = index

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.server.close()


@pytest.fixture
def served():
    with closing(Served()) as served:
        yield served


def connect(served: Served, query: str = "", **options):
    url = f"ws://127.0.0.1:{served.server.port}/stream{query}"
    return websockets.connect(url, open_timeout=LIMIT, close_timeout=1, compression=None, proxy=None, **options)


def read(message: bytes) -> tuple[dict, np.ndarray]:
    length = int.from_bytes(message[:4], "big")
    return json.loads(message[4 : 4 + length]), cv2.imdecode(np.frombuffer(message[4 + length :], np.uint8), 1)


def get(url: str, **headers: str) -> tuple[int, str, dict]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=LIMIT) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read().decode(), dict(problem.headers)


# ----------------------------------------------------------------------------------------------------------- stream


def test_a_viewer_is_told_who_it_is_and_then_each_frame(served):
    with connect(served) as viewer:
        told = json.loads(viewer.recv(LIMIT))
        row, image = read(viewer.recv(LIMIT))
    assert told["source"] == "<b>desk</b>"
    assert told["colours"][0] == "#4fd0ff"
    assert row["state"] == "Starting" and row["faces"] == [{"id": 1, "confidence": 0.9}]
    assert image.shape == (48, 64, 3)
    away = np.abs(image.astype(int) - (9, 40, 200)).max(axis=2)
    assert away[-4:].max() < 20  # the frame …
    assert away.max() > 50  # … with the face drawn on it


def test_a_viewer_that_does_not_answer_gets_no_more_and_holds_nobody_up(served):
    with connect(served) as slow, connect(served) as quick:
        slow.recv(LIMIT), quick.recv(LIMIT)
        frames = []
        for _ in range(30):
            frames.append(read(quick.recv(LIMIT))[0]["frame"])
            quick.send("next")
        for _ in range(CREDIT):
            slow.recv(LIMIT)
        with pytest.raises(TimeoutError):
            slow.recv(0.3)
        slow.send("next")
        assert read(slow.recv(LIMIT))[0]["frame"] > frames[-1]
    assert frames == sorted(set(frames))
    wait(lambda: served.server.viewers == 0)


def test_nothing_is_encoded_while_nobody_watches(served, monkeypatch):
    monkeypatch.setattr(cv2, "imencode", lambda *_: pytest.fail("encoded for nobody"))
    before = served.published
    wait(lambda: served.published > before + 5)


def test_record_and_snapshot(served):
    with connect(served) as viewer, connect(served) as other:
        viewer.send("record")
        viewer.send("snapshot")
        viewer.send("format the disk")
        wait(lambda: served.status.recording and served.status.snapshots == 1)
        other.send("record")  # pressed before its page could show that it is on
        other.send("snapshot")
        wait(lambda: served.status.snapshots == 2)
        assert served.status.recording
        viewer.send("stop")
        wait(lambda: not served.status.recording)
    assert not served.status.quit


def test_faces_at_rest(served):
    with connect(served) as viewer:
        viewer.send("neutral")
        wait(lambda: served.status.neutrals == 1)


@pytest.mark.parametrize("words", [["next"] * 50, ["x" * 5000], [b"bytes"]])
def test_a_viewer_that_misbehaves_is_let_go(served, words):
    with connect(served) as viewer, pytest.raises(ConnectionClosed):
        for word in words:
            viewer.send(word)
        for _ in range(200):
            viewer.recv(LIMIT)
    with connect(served) as viewer:
        assert viewer.recv(LIMIT)


def test_closing_ends_viewers_and_frees_the_port():
    with closing(Served()) as served, connect(served) as viewer:
        viewer.recv(LIMIT)
        port = served.server.port
    with closing(Served(port=port)) as served, connect(served) as viewer:
        assert viewer.recv(LIMIT)


# ------------------------------------------------------------------------------------------------------------- doors


def test_the_page_loads_nothing_from_elsewhere(served):
    status, page, headers = get(served.server.url)
    assert status == 200
    assert not re.search(r"https?://|src=|@import|url\(", page)
    policy = headers["content-security-policy"]
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", policy)[1]
    assert "default-src 'none'" in policy and page.count(f'nonce="{nonce}"') == 2
    assert headers["referrer-policy"] == "no-referrer"
    assert get(served.server.url)[2]["content-security-policy"] != policy
    assert get(f"{served.server.url}../../etc/passwd")[0] == 404


def test_this_machine_alone_unless_told_otherwise(served):
    assert served.server.url == f"http://127.0.0.1:{served.server.port}/"
    assert is_loopback("localhost") and is_loopback("::1") and is_loopback("127.0.0.2")
    assert not is_loopback("0.0.0.0") and not is_loopback("192.168.1.2") and not is_loopback("desk.example")


def test_pages_of_other_sites_may_not_look_in(served):
    assert get(served.server.url, Host="evil.example")[0] == 403
    assert get(served.server.url, Origin="http://evil.example")[0] == 403
    assert get(served.server.url, Host=f"localhost:{served.server.port}")[0] == 200
    assert refused(served, "", origin="http://evil.example") == 403
    with connect(served, origin=f"http://127.0.0.1:{served.server.port}") as viewer:
        assert viewer.recv(LIMIT)


def refused(served: Served, query: str, **options) -> int:
    with pytest.raises(InvalidStatus) as problem, connect(served, query, **options):
        pass
    return problem.value.response.status_code


def test_any_other_host_asks_for_a_token(monkeypatch):
    monkeypatch.delenv("TABRT_TOKEN", raising=False)
    with closing(Served("0.0.0.0")) as served:
        named, token = served.server.url.split("?token=")
        host = urlsplit(named).hostname
        assert ipaddress.ip_address(host) and host != "0.0.0.0"  # which leads nowhere, and a telephone knows no names
        assert get(f"{named}?token={token}")[0] == 200
        url = f"http://127.0.0.1:{served.server.port}/"
        assert len(token) >= 20
        for query in ("", "?token=", "?token=wrong", f"?token={token}x", "?token=%ff", f"?other={token}"):
            status, text, _ = get(url + query)
            assert (status, text.count("\n")) == (401, 1)
            assert "token missing or wrong" in text
            assert refused(served, query) == 401
        assert get(f"{url}?token={token}")[0] == 200
        with connect(served, f"?token={token}") as viewer:
            assert viewer.recv(LIMIT)
    monkeypatch.setenv("TABRT_TOKEN", "of the lab")
    with closing(Served()) as served:
        assert get(served.server.url)[0] == 200
        assert get(f"http://127.0.0.1:{served.server.port}/")[0] == 401
        assert get(f"http://127.0.0.1:{served.server.port}/?token=of%20the%20lab")[0] == 200


def test_a_missing_package_is_named():
    program = "import sys; sys.modules['websockets'] = None; import tabrt.live.page"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(), capture_output=True, text=True, timeout=LIMIT
    )
    assert done.stderr.splitlines()[-1].endswith(
        "--serve needs websockets; in tabrt's checkout, run: pip install '.[serve]'"
    )


def test_a_port_that_is_taken(served):
    with pytest.raises(TabrtError, match=r"cannot be served \(Address already in use.*choose another --serve port"):
        Page("127.0.0.1", served.server.port, served.run, ABOUT)
    with pytest.raises(TabrtError, match=r"no\.such\.host\.invalid:0 cannot be served"):
        Page("no.such.host.invalid", 0, served.run, ABOUT)


# ---------------------------------------------------------------------------------------------------------- browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update"),
    *("--disable-background-networking", "--disable-sync", "--remote-debugging-port=0", "--window-size=1200,760"),
)


class Browser:
    """Headless Chromium with one page, driven over its DevTools protocol."""

    def __init__(self, folder: Path, stack: ExitStack):
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.enter_context(ended(process))
        wait(
            lambda: (folder / "DevToolsActivePort").exists() and (folder / "DevToolsActivePort").read_text().count("\n")
        )
        port = (folder / "DevToolsActivePort").read_text().split()[0]
        targets = json.loads(get(f"http://127.0.0.1:{port}/json")[1])
        address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
        self._socket = stack.enter_context(websockets.connect(address, max_size=None, proxy=None, close_timeout=1))
        self._number = 0
        self.events: list[dict] = []

    def do(self, method: str, **parameters) -> dict:
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while (answer := json.loads(self._socket.recv(LIMIT))).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def ask(self, expression: str):
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def text(self, name: str) -> str:
        return self.ask(f"document.getElementById('{name}').textContent")


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (apt install chromium)")
def test_the_page_in_a_real_browser(tmp_path):
    with open_film(FILM) as film:
        images = [frame.image for frame, _ in zip(film, range(12), strict=False)]
    with ExitStack() as stack:
        served = stack.enter_context(closing(Served(images=images)))
        browser = Browser(tmp_path, stack)
        for domain in ("Runtime", "Log", "Network", "Page"):
            browser.do(f"{domain}.enable")
        browser.do("Page.navigate", url=served.server.url)
        wait(lambda: browser.text("fps") not in (None, "–") and browser.ask("picture.height") == 360)
        for name, text in (
            ("about", "<b>desk</b>, model tab1-lite, engine onnxruntime"), ("said", "<i>wrote</i>"), ("faces", "10.90"),
        ):  # fmt: skip
            wait(lambda name=name, text=text: browser.text(name) == text)
        browser.ask("document.getElementById('record').click()")
        wait(lambda: served.status.recording)
        served.notes = {"recorded": 75.0}
        wait(lambda: browser.text("record") == "Stop, 1:15")
        assert browser.ask("document.getElementById('record').getAttribute('aria-pressed')") == "true"
        browser.ask("document.getElementById('snapshot').click()")
        wait(lambda: served.status.snapshots == 1)
        browser.ask("document.getElementById('record').click()")
        wait(lambda: not served.status.recording and browser.text("record") == "Record")
        check_picture(browser, images)
        shot = base64.b64decode(browser.do("Page.captureScreenshot")["data"])
        if os.environ.get("TABRT_SCREENSHOTS"):
            (Path(os.environ["TABRT_SCREENSHOTS"]) / "page.png").write_bytes(shot)
        assert cv2.imdecode(np.frombuffer(shot, np.uint8), 1).std() > 20
        check_layout(browser)
        served.notes = {"state": State.STALLED, "reason": "<u>unplugged</u>"}
        wait(lambda: browser.text("banner") == "Stalled: <u>unplugged</u>")
        served.notes = {"state": State.RUNNING}
        wait(lambda: browser.text("banner") == "" and browser.text("state") == "Running")
        served.close()
        wait(lambda: browser.text("state") == "Disconnected")
        assert browser.text("banner").startswith("Disconnected: tabrt does not answer")
        assert browser.ask("document.getElementById('record').disabled")
    asked = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert set(asked) <= {served.server.url, "data:,"}
    problems = [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    assert problems == []


def check_layout(browser: Browser) -> None:
    """Nothing runs out of the page's sides, on a desk or a telephone, and the picture fits into the window."""
    for width, height in ((1280, 800), (390, 844)):
        browser.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask("picture.getBoundingClientRect().bottom") <= height


def check_picture(browser: Browser, images: list[np.ndarray]) -> None:
    """The canvas shows the picture as it is drawn for all: with the scripted circle of points, curves and the id."""
    data = browser.ask("picture.toDataURL('image/png')").split(",")[1]
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), 1).astype(int)
    tracker = ScriptedTracker()
    tracker.reset()
    drawn = [draw(tracker(Frame(image)), tracker.topology) for image in images]
    to_drawn, to_plain = (min(np.abs(shown - each).mean() for each in pictures) for pictures in (drawn, images))
    assert to_drawn < 2 < 1.3 * to_drawn < to_plain, (to_drawn, to_plain)


def test_the_page_is_there_for_everyone():
    page = PAGE.read_text(encoding="utf-8")
    assert '<html lang="en"' in page and "<title>" in page and "<main" in page
    for name in re.findall(r'aria-labelledby="(\w+)"', page):
        assert f'id="{name}"' in page
    assert 'role="status"' in page and "aria-pressed" in page and "focus-visible" in page
