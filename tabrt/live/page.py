"""The live picture as a web page: one WebSocket message a frame, drawn on a canvas in the browser.

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
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import cv2
import numpy as np

from tabrt.errors import TabrtError, install_extra
from tabrt.faces import Scene
from tabrt.live.camera import LiveCamera
from tabrt.live.status import Controls, Numbers
from tabrt.topology import Topology

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


class Server:
    """The page at `url`, served from a thread of its own.

    host: 127.0.0.1 needs no token; any other does: the one in TABRT_TOKEN, or a new one, which is part of `url`.
    port: 0 for any free one. Raises TabrtError for a port that is taken, or packages that are missing.
    """

    def __init__(self, host: str, port: int, controls: Controls, about: Callable[[], dict]):
        self._feed = Feed()
        self._controls = controls
        token = os.environ.get(TOKEN_VARIABLE) or (None if is_loopback(host) else secrets.token_urlsafe(16))
        self._socket = _listen(host, port)
        self.port = self._socket.getsockname()[1]
        named = socket.gethostname() if host in EVERYWHERE else f"[{host}]" if ":" in host else host
        self.url = f"http://{named}:{self.port}/" + (f"?token={token}" if token else "")
        config = uvicorn.Config(
            guarded(_application(self._feed, controls, about), token, host),
            log_level="critical",
            access_log=False,
            lifespan="off",
            ws_max_size=1024,  # bytes, of what a viewer sends
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, name="tabrt-serve", daemon=True)
        self._thread.start()

    @property
    def viewers(self) -> int:
        return len(self._feed.viewers)

    def publish(self, scene: Scene | None, numbers: Numbers, camera: LiveCamera) -> None:
        """Send a scene, or only the numbers where it is None, to whoever watches."""
        if self.viewers:
            self._feed.publish(message(scene, numbers, camera, self._controls))

    def close(self) -> None:
        self._server.should_exit = True
        self._server.force_exit = True  # viewers may stay for ever
        self._thread.join(0.7)
        self._socket.close()

    def _run(self) -> None:
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


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise TabrtError(f"{host}:{port} cannot be served ({reason}); choose another --serve port or --host") from None


def message(scene: Scene | None, numbers: Numbers, camera: LiveCamera, controls: Controls) -> bytes:
    """One message for the page."""
    row = {
        "state": camera.state,
        "reason": camera.reason,
        "fps": round(numbers.fps, 1),
        "latency": _milliseconds(numbers.recent_latency(0.5)),
        "latency95": _milliseconds(numbers.recent_latency(0.95)),
        "dropped": numbers.dropped,
        "recording": controls.recording,
        "recorded": int(controls.recorded),
        "message": controls.message,
    }
    picture = b""
    if scene is not None:
        row |= {"frame": scene.frame.index, "faces": [_face(face) for face in scene.faces]}
        picture = cv2.imencode(".jpg", scene.frame.image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    text = json.dumps(row, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "big") + text + picture


def _milliseconds(seconds: float) -> int | None:
    return None if math.isnan(seconds) else round(1000 * seconds)


def _face(face) -> dict:
    return {
        "id": face.id,
        "confidence": _rounded(face.confidence, 2),
        "points": _rounded(face.points, 1),
    }


def _rounded(values: np.ndarray, decimals: int) -> list:
    return np.nan_to_num(np.asarray(values, np.float64)).round(decimals).tolist()


def about(name: str, model: str, engine: str, topology: Topology, colours: tuple) -> dict:
    """What a viewer is told first: names, and the lines to draw. colours: BGR, by id."""
    return {
        "source": name,
        "model": model,
        "engine": engine,
        "lines": [list(line) for line in topology.boundaries.values()],
        "colours": ["#{2:02x}{1:02x}{0:02x}".format(*colour) for colour in colours],
    }


# ----------------------------------------------------------------------------------------------------- web application


def _application(feed: Feed, controls: Controls, about: Callable[[], dict]) -> Starlette:
    page = PAGE.read_text(encoding="utf-8")

    async def index(_request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        return HTMLResponse(page.replace("{{nonce}}", nonce), headers=_page_headers(nonce))

    async def stream(websocket: WebSocket) -> None:
        await _watch(websocket, feed, controls, about)

    return Starlette(routes=[Route("/", index), WebSocketRoute("/stream", stream)])


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


async def _watch(websocket: WebSocket, feed: Feed, controls: Controls, about: Callable[[], dict]) -> None:
    """Send frames to one viewer, and heed what it asks for, until it leaves."""
    await websocket.accept()
    if len(feed.viewers) >= MOST_VIEWERS:
        await websocket.close(1013, "too many viewers")
        return
    news, credit = asyncio.Event(), asyncio.BoundedSemaphore(CREDIT)
    feed.viewers.add(news)
    tasks = [
        asyncio.create_task(_send(websocket, feed, news, credit, about)),
        asyncio.create_task(_heed(websocket, credit, controls)),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        feed.viewers.discard(news)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(
    websocket: WebSocket, feed: Feed, news: asyncio.Event, credit: asyncio.BoundedSemaphore, about: Callable[[], dict]
) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_text(json.dumps(about()))
        while True:
            await credit.acquire()
            await news.wait()
            news.clear()
            await websocket.send_bytes(feed.message)


async def _heed(websocket: WebSocket, credit: asyncio.BoundedSemaphore, controls: Controls) -> None:
    with contextlib.suppress(
        WebSocketDisconnect, RuntimeError, KeyError, ValueError
    ):  # ValueError: one "next" too many
        while True:
            word = await websocket.receive_text()
            if word == "next":
                credit.release()
            elif word in ("record", "stop"):  # not a switch, which two viewers might press at once
                controls.recording = word == "record"
            elif word == "snapshot":
                controls.snapshot = True


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
