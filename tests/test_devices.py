"""Cameras of Windows and macOS, by stand-ins for what lists them, for OpenCV and for AVFoundation."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
from conftest import environment

from tabrt.commands import doctor
from tabrt.errors import TabrtError
from tabrt.live.devices import Camera, cameras, macos, open_camera, require_permission
from tabrt.live.sources import DeviceCapture, find_device, live_camera

USB = r"\\?\usb#vid_046d&pid_0825#6&1"


class Listing:
    """A stand-in for cv2-enumerate-cameras: (name, path) of each back end's cameras."""

    def __init__(self, **backends: list[tuple[str, str | None]]):
        self._backends = {getattr(cv2, f"CAP_{name}"): found for name, found in backends.items()}

    def enumerate_cameras(self, backend: int) -> list[types.SimpleNamespace]:
        found = self._backends[backend]
        return [
            types.SimpleNamespace(name=name, path=path, index=index, backend=backend)
            for index, (name, path) in enumerate(found)
        ]


class Capture:
    """A stand-in for an opened camera, and what was asked of it."""

    opened: list[Capture]

    def __init__(self, number: int, backend: int, asked: list[int] | None = None, fits: bool = True):
        self.number, self.backend = number, backend
        self.asked = dict(zip(asked[::2], asked[1::2], strict=True)) if asked else {}
        self.later: dict[int, float] = {}
        self.fits, self.released = fits, False
        Capture.opened.append(self)

    def isOpened(self) -> bool:
        return self.fits

    def set(self, what: int, value: float) -> bool:
        self.later[what] = value
        return True

    def get(self, _what: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.zeros((4, 4, 3), np.uint8)

    def release(self) -> None:
        self.released = True


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Capture]:
    Capture.opened = []
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    return Capture.opened


def _system(monkeypatch: pytest.MonkeyPatch, name: str, listing: Listing | None) -> None:
    monkeypatch.setattr(sys, "platform", name)
    monkeypatch.setitem(sys.modules, "cv2_enumerate_cameras", listing)


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    both = ("Integrated Camera", USB)
    _system(monkeypatch, "win32", Listing(MSMF=[both, ("Desk", "b")], DSHOW=[both, ("OBS Virtual Camera", None)]))


def test_windows_lists_each_camera_once_and_virtual_ones_too(windows):
    assert cameras() == [
        Camera("0", "Integrated Camera", USB, cv2.CAP_MSMF),
        Camera("1", "Desk", "b", cv2.CAP_MSMF + 1),
        Camera("2", "OBS Virtual Camera", None, cv2.CAP_DSHOW + 1),
    ]
    assert next(doctor._cameras()) == f"  0  Integrated Camera  ({USB})"


@pytest.mark.parametrize("source", ["1", "b", "desk", "DESK", "es"])
def test_a_camera_by_number_id_or_name(windows, source: str):
    assert find_device(source).number == cv2.CAP_MSMF + 1


def test_a_whole_name_is_that_camera_though_others_begin_like_it(monkeypatch: pytest.MonkeyPatch):
    _system(monkeypatch, "win32", Listing(MSMF=[("C920", "a"), ("C920 #2", "b")], DSHOW=[]))
    assert find_device("c920").stable_path == "a"
    with pytest.raises(
        TabrtError, match=r"2 cameras are called c92; the cameras here: 0 \(C920, a\), 1 \(C920 #2, b\)"
    ):
        find_device("c92")


@pytest.mark.parametrize("source", ["3", "garden"])
def test_one_that_is_not_there_is_told_with_those_that_are(windows, source: str):
    with pytest.raises(TabrtError, match=rf"no camera, film or address {source}; .* 2 \(OBS Virtual Camera\)"):
        find_device(source)


def test_media_foundation_is_given_its_settings_when_it_opens(windows, opened: list[Capture]):
    """Each one after that costs it seconds."""
    open_camera(find_device("0"), (1280, 720), 30.0)
    (capture,) = opened
    assert (capture.number, capture.backend) == (cv2.CAP_MSMF, cv2.CAP_ANY)
    assert capture.asked == {cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720, cv2.CAP_PROP_FPS: 30}
    assert capture.later == {}


def test_what_it_cannot_give_exactly_is_asked_for_afterwards(windows, monkeypatch: pytest.MonkeyPatch):
    Capture.opened = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: Capture(*given, fits=len(given) < 3))
    capture = open_camera(find_device("0"), (1000, 700), None)
    assert capture.isOpened() and capture.later[cv2.CAP_PROP_FRAME_WIDTH] == 1000
    assert [each.released for each in Capture.opened] == [True, False]


def test_directshow_is_asked_for_mjpeg_first(windows, opened: list[Capture]):
    open_camera(find_device("obs"), (640, 480), None)
    (capture,) = opened
    assert capture.number == cv2.CAP_DSHOW + 1
    assert next(iter(capture.asked)) == cv2.CAP_PROP_FOURCC
    assert capture.asked[cv2.CAP_PROP_FOURCC] == cv2.VideoWriter.fourcc(*"MJPG")


def test_the_first_that_gives_pictures_is_taken_there_too(windows, monkeypatch: pytest.MonkeyPatch):
    class First(Capture):
        def isOpened(self) -> bool:
            return self.number != cv2.CAP_MSMF

    Capture.opened = []
    monkeypatch.setattr(cv2, "VideoCapture", First)
    camera = live_camera()
    assert next(frame for frame in camera if frame is not None).image.shape == (4, 4, 3)
    assert camera.name == "1 (Desk)"


def test_no_pictures_name_the_setting_that_may_forbid_them(windows, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda *given: Capture(*given, fits=False))
    Capture.opened = []
    with pytest.raises(TabrtError, match=r"camera 1 \(Desk\) gives no pictures; .* allow desktop apps the camera"):
        DeviceCapture(find_device("1"))


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_without_a_list_the_number_still_opens(monkeypatch, opened: list[Capture], caplog, system: str):
    """The package is missing, or the system's framework fails."""
    _system(monkeypatch, system, None)
    monkeypatch.setitem(sys.modules, "AVFoundation", None)
    assert cameras() == []
    assert "the cameras cannot be listed" in caplog.text
    camera = live_camera(0)
    assert next(frame for frame in camera if frame is not None) is not None
    assert opened[0].number == 0
    assert opened[0].backend == (cv2.CAP_ANY if system == "win32" else cv2.CAP_AVFOUNDATION)
    with pytest.raises(TabrtError, match="no camera is plugged in"):
        find_device("garden")


def test_macos_opens_a_camera_in_opencvs_order(monkeypatch: pytest.MonkeyPatch, opened: list[Capture]):
    _system(monkeypatch, "darwin", Listing(AVFOUNDATION=[("iPhone", "0A"), ("FaceTime HD Camera", "0B")]))
    open_camera(find_device("facetime"), (1280, 720), None)
    (capture,) = opened
    assert (capture.number, capture.backend) == (1, cv2.CAP_AVFOUNDATION)
    assert capture.later == {cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720}


# ----------------------------------------------------------------------------------------------- macOS asks its user


class Permission:
    """A stand-in for AVFoundation: what was decided, and what its user answers, or nothing."""

    AVMediaTypeVideo = "vide"

    def __init__(self, status: int, answer: int | None = None):
        self.status, self.answer, self.asked = status, answer, 0
        self.AVCaptureDevice = self

    def authorizationStatusForMediaType_(self, kind: str) -> int:
        assert kind == "vide"
        return self.status

    def requestAccessForMediaType_completionHandler_(self, kind: str, tell) -> None:
        self.asked += 1
        if self.answer is not None:
            self.status = self.answer
            tell(self.answer == macos.AUTHORIZED)


def _macos(monkeypatch: pytest.MonkeyPatch, permission: Permission) -> None:
    _system(monkeypatch, "darwin", Listing(AVFOUNDATION=[("FaceTime HD Camera", "0B")]))
    monkeypatch.setitem(sys.modules, "AVFoundation", permission)
    monkeypatch.setattr(macos, "PATIENCE", 0.01)
    monkeypatch.delenv("OPENCV_AVFOUNDATION_SKIP_AUTH", raising=False)


@pytest.mark.parametrize("answer", [macos.AUTHORIZED, None])
def test_macos_asks_once_before_opencv_would(monkeypatch: pytest.MonkeyPatch, answer: int | None):
    first = Permission(macos.AUTHORIZED if answer is None else macos.NOT_DETERMINED, answer)
    _macos(monkeypatch, first)
    monkeypatch.setenv("OPENCV_AVFOUNDATION_SKIP_AUTH", "0")
    require_permission()
    assert first.asked == (0 if answer is None else 1)
    assert os.environ["OPENCV_AVFOUNDATION_SKIP_AUTH"] == "1"  # OpenCV can ask from the main thread alone


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (macos.DENIED, None, "does not let this program use the camera: allow your terminal in System Settings"),
        (macos.RESTRICTED, None, "restricts cameras on this machine"),
        (macos.NOT_DETERMINED, macos.DENIED, "does not let this program"),
        (macos.NOT_DETERMINED, None, "nobody answered"),
    ],
)
@pytest.mark.parametrize("source", [None, "facetime"])
def test_macos_saying_no_is_told_in_words_before_anything_is_opened(
    monkeypatch, opened: list[Capture], source: str | None, status: int, answer: int | None, told: str
):
    _macos(monkeypatch, Permission(status, answer))
    monkeypatch.setenv("OPENCV_AVFOUNDATION_SKIP_AUTH", "0")
    with pytest.raises(TabrtError, match=told):
        live_camera(source)
    assert opened == []


def test_doctor_tells_what_macos_decided_and_asks_nothing(monkeypatch: pytest.MonkeyPatch):
    denied = Permission(macos.DENIED)
    _macos(monkeypatch, denied)
    assert "allow your terminal" in next(doctor._cameras())
    undecided = Permission(macos.NOT_DETERMINED)
    _macos(monkeypatch, undecided)
    assert list(doctor._cameras()) == ["  0  FaceTime HD Camera  (0B)"]
    assert denied.asked == undecided.asked == 0


def test_media_foundations_slow_start_is_mended_before_opencv_is_imported():
    program = (
        "import sys, os\nsys.argv = ['tabrt', '--version']\nfrom tabrt.cli import main\n"
        "assert 'cv2' not in sys.modules\n"
        "try:\n    main()\nexcept SystemExit:\n    print(os.environ['OPENCV_VIDEOIO_MSMF_ENABLE_HW_TRANSFORMS'])\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.stdout.splitlines()[-1] == "0", done.stderr
