"""The live picture as a web page: one WebSocket message a frame, shown on a canvas in the browser.

A message is the length of its JSON (4 bytes, big-endian), the JSON, and the picture as JPEG, empty where there is no
new one. A viewer answers each with "next", and has at most CREDIT messages on their way, so that a slow viewer sees
fewer frames and nothing queues; a frame is encoded once for all of them, and not at all while nobody watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import math
import os
import secrets
import socket
import threading
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import cv2
import numpy as np

from tabrt.drawing import PALETTE
from tabrt.errors import TabrtError, first_line, install_extra
from tabrt.faces import Face, Scene
from tabrt.live.run import Run, Wish
from tabrt.live.status import Status
from tabrt.sinks import Sink

try:
    import uvicorn
    import websockets  # noqa: F401  without it uvicorn would serve the page, but no picture
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect
except ModuleNotFoundError as missing:
    raise TabrtError(f"--serve needs {missing.name}; {install_extra('serve')}") from None

PAGE = Path(__file__).parent / "web" / "live.html"
CREDIT = 3  # frames on their way to one viewer
MOST_VIEWERS = 32
EVERYWHERE = ("", "0.0.0.0", "::")  # hosts that stand for all addresses of this machine
QUALITY = 80  # of the JPEG
LEAST_SHAPE = 0.05  # of what moves in a face, to be listed
TOKEN_VARIABLE = "TABRT_TOKEN"


class Feed:
    """The newest message, and the viewers who wait for it. `publish` may be called from any thread."""

    def __init__(self) -> None:
        self.viewers: set[asyncio.Event] = set()
        self.number = 0
        self.message = b""
        self.loop: asyncio.AbstractEventLoop | None = None

    def publish(self, message: bytes) -> None:
        if self.loop is not None and self.viewers:
            with contextlib.suppress(RuntimeError):  # the loop has just been closed
                self.loop.call_soon_threadsafe(self._set, message)

    def _set(self, message: bytes) -> None:
        self.message = message
        self.number += 1
        for viewer in self.viewers:
            viewer.set()


class Page(Sink):
    """The page at `url`, served from a thread of its own.

    host: 127.0.0.1 needs no token; any other does: the one in TABRT_TOKEN, or a new one, which is part of `url`.
    port: 0 for any free one. measures: show pose and expression, too. `url` with `view` after its slash shows the
    picture alone. Raises TabrtError for a port that is taken, or packages that are missing.
    """

    def __init__(self, host: str, port: int, run: Run, about: dict, measures: bool = False):
        self._measures = measures
        self._feed, self._run = Feed(), run
        self._shown: Scene | None = None
        token = os.environ.get(TOKEN_VARIABLE) or (None if is_loopback(host) else secrets.token_urlsafe(16))
        self._socket = _listen(host, port)
        self.port = self._socket.getsockname()[1]
        named = _own_address(host) if host in EVERYWHERE else host
        named = f"[{named}]" if ":" in named else named
        self.url = f"http://{named}:{self.port}/" + (f"?token={quote(token, safe='')}" if token else "")
        config = uvicorn.Config(
            guarded(_application(self._feed, run, about), token, host),
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws_max_size=1024,  # bytes, of what a viewer sends
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="tabrt-serve", daemon=True)
        self._thread.start()

    @property
    def viewers(self) -> int:
        return len(self._feed.viewers)

    def __call__(self, scene: Scene) -> None:
        self._publish(scene)

    def tick(self, last: Scene | None) -> None:
        """Whoever watches sees the state; and the picture again where another one is shown now."""
        self._publish(last if last is not self._shown else None)

    def _publish(self, scene: Scene | None) -> None:
        self._shown = scene or self._shown
        if self.viewers:
            self._feed.publish(message(scene, self._run.status, self._measures))

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True  # viewers may stay for ever
        self._thread.join(0.7)
        self._socket.close()

    def _serve(self) -> None:
        async def serve() -> None:
            self._feed.loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[self._socket])

        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(serve())


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_address(host: str) -> str:
    """The address under which others reach a server that listens everywhere: a telephone cannot look up a host name."""
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in host else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))  # an address of no machine; UDP sends nothing by connecting
            return probe.getsockname()[0]
        except OSError:
            return "::1" if ":" in host else "127.0.0.1"  # no network is up


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as problem:
        raise TabrtError(
            f"{host}:{port} cannot be served ({first_line(problem)}); choose another --serve port or --host"
        ) from None


def message(scene: Scene | None, status: Status, measures: bool = False) -> bytes:
    """One message for the page."""
    counts = status.counts
    row = {
        "state": status.state,
        "reason": status.reason,
        "fps": round(counts.fps, 1),
        "latency": _milliseconds(counts.latency),
        "latency95": _milliseconds(counts.latency95),
        "dropped": counts.dropped,
        "recording": status.recording,
        "recorded": int(status.recorded),
        "message": status.message,
    }
    picture = b""
    if scene is not None:
        row |= {"frame": scene.frame.index, "faces": [_face(face, measures) for face in scene.faces]}
        picture = cv2.imencode(".jpg", scene.picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    text = json.dumps(row, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "big") + text + picture


def _milliseconds(seconds: float) -> int | None:
    return None if math.isnan(seconds) else round(1000 * seconds)


def _face(face: Face, measures: bool) -> dict:
    row = {"id": face.id, "confidence": round(float(np.nan_to_num(face.confidence).mean()), 2)}
    if not measures or face.pose is None or face.measures is None:
        return row
    moving = {name: round(value, 2) for name, value in face.measures.items() if value >= LEAST_SHAPE}
    return row | {"pose": [round(angle) for angle in face.pose.angles], "measures": moving}


def about(name: str, model: str, engine: str) -> dict:
    """What a viewer is told first: names, and the colour of each id."""
    colours = ["#{2:02x}{1:02x}{0:02x}".format(*colour) for colour in PALETTE]
    return {"source": name, "model": model, "engine": engine, "colours": colours}


# ----------------------------------------------------------------------------------------------------- web application


def _application(feed: Feed, run: Run, about: dict) -> Starlette:
    page = PAGE.read_text(encoding="utf-8")

    def shown(kind: str) -> Response:
        nonce = secrets.token_urlsafe(16)
        text = page.replace("{{nonce}}", nonce).replace("{{kind}}", kind)
        return HTMLResponse(text, headers=_page_headers(nonce))

    async def index(_request: Request) -> Response:
        return shown("page")

    async def view(_request: Request) -> Response:
        """The picture alone, for a browser source of OBS."""
        return shown("view")

    async def stream(websocket: WebSocket) -> None:
        await _watch(websocket, feed, run, about)

    return Starlette(routes=[Route("/", index), Route("/view", view), WebSocketRoute("/stream", stream)])


def _page_headers(nonce: str) -> dict[str, str]:
    """Nothing is loaded from elsewhere, nothing is kept, and no other page may frame this one."""
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }


async def _watch(websocket: WebSocket, feed: Feed, run: Run, about: dict) -> None:
    """Send frames to one viewer, and take what it asks for, until it leaves."""
    await websocket.accept()
    if len(feed.viewers) >= MOST_VIEWERS:
        await websocket.close(1013, "too many viewers")
        return
    news, credit = asyncio.Event(), asyncio.BoundedSemaphore(CREDIT)
    feed.viewers.add(news)
    tasks = [
        asyncio.create_task(_send(websocket, feed, news, credit, about)),
        asyncio.create_task(_receive(websocket, credit, run)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        feed.viewers.discard(news)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(
    websocket: WebSocket, feed: Feed, news: asyncio.Event, credit: asyncio.BoundedSemaphore, about: dict
) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_text(json.dumps(about))
        while True:
            await credit.acquire()
            await news.wait()
            news.clear()
            await websocket.send_bytes(feed.message)


async def _receive(websocket: WebSocket, credit: asyncio.BoundedSemaphore, run: Run) -> None:
    with contextlib.suppress(
        WebSocketDisconnect, RuntimeError, KeyError, ValueError
    ):  # ValueError: one "next" too many
        while True:
            word = await websocket.receive_text()
            if word == "next":
                credit.release()
            elif word in ("record", "stop"):  # not a switch, which two viewers might press at once
                run.ask(Wish("record", on=word == "record"))
            elif word == "snapshot":
                run.ask(Wish("snapshot"))
            elif word == "neutral":
                run.ask(Wish("neutral"))


def guarded(application, token: str | None, host: str):
    """The application behind a token, where there is one; without one, only for pages of this very server.

    Any page in a browser may send requests to 127.0.0.1, and open WebSockets to it: the Host and Origin headers tell.
    """

    async def guard(scope, receive, send) -> None:
        if scope["type"] in ("http", "websocket"):
            refusal = _refusal(scope, token, host)
            if refusal is not None:
                await _refuse(scope, receive, send, refusal)
                return
        await application(scope, receive, send)

    return guard


def _refusal(scope, token: str | None, host: str) -> Response | None:
    headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
    if token is not None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not hmac.compare_digest(given.encode(), token.encode()):
            text = "token missing or wrong: open the address that tabrt printed when it started\n"
            return PlainTextResponse(text, 401, {"Cache-Control": "no-store"})
    elif _hostname(headers.get("host", "")) not in {"127.0.0.1", "localhost", "::1", host}:
        return PlainTextResponse("this server answers to its own address only\n", 403)
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return PlainTextResponse("other sites may not look in here\n", 403)
    return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


async def _refuse(scope, receive, send, response: Response) -> None:
    if scope["type"] == "http":
        await response(scope, receive, send)
        return
    await WebSocket(scope, receive, send).send_denial_response(response)
