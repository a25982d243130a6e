"""What avatars hear: receivers written from the published layouts look at every byte and every sign."""

from __future__ import annotations

import logging
import math
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing

import cv2
import numpy as np
import pytest
from made_faces import AHEAD, LENS, SURE, calm, changed, face, looking, mirrored, scene, seen, shut_eye

from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.measures import SHAPES
from tabrt.measures.head import EYE_DISTANCE, HEAD
from tabrt.sinks import IFacialMocapSink, OpenSeeFaceSink, OscSink, Sink, VmcSink
from tabrt.sinks.arkit import ARKIT
from tabrt.sinks.openseeface import UNIT
from tabrt.sinks.udp import MOST_BYTES, Performer, host_and_port

OPEN_MOUTH = changed(((93, 94, 95, 84, 85, 86), (0, 0.25)))
TO_THEIR_LEFT, UP, TO_THEIR_RIGHT_SHOULDER = (-20, 0, 0), (0, -15, 0), (0, 0, -12)


@pytest.fixture
def ear() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(5)
        yield ear


def heard(ear: socket.socket, sink: Sink, *scenes: Scene) -> list[bytes]:
    """All datagrams of some scenes."""
    for one in scenes:
        sink(one)
    sink(Scene(scene().frame))  # does what it does without faces
    ear.settimeout(0.2)
    packets = []
    try:
        while True:
            packets.append(ear.recv(65536))
    except TimeoutError:
        return packets


def address(ear: socket.socket) -> str:
    return f"127.0.0.1:{ear.getsockname()[1]}"


# OpenSeeFace


class OpenSee:
    """One face as Unity/OpenSee.cs reads it, in its order, with its changes of signs."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0
        self.time, self.id = self._take("d")[0], self._take("i")[0]
        self.resolution = self._take("2f")
        self.right_open, self.left_open = self._take("2f")
        self.got_3d = self._take("B")[0]
        self.error = self._take("f")[0]
        self.quaternion = self._take("4f")
        self.raw_euler = self._take("3f")
        x, y, z = self.raw_euler
        remainder = math.fmod  # C#'s %
        self.rotation = (-remainder(x + 180, 360), -y, remainder(z - 90, 360))
        x, y, z = self.raw_translation = self._take("3f")
        self.translation = (-y, x, -z)
        self.confidence = self._take("68f")
        self.points = np.reshape(self._take("136f"), (68, 2))
        self.points_3d = np.reshape(self._take("210f"), (70, 3)) * (1, -1, 1)
        names = [*("eye_l", "eye_r", "steep_l", "brow_l", "quirk_l", "steep_r", "brow_r", "quirk_r", "updown_l")]
        names += ["inout_l", "updown_r", "inout_r", "mouth_open", "mouth_wide"]
        self.features = dict(zip(names, self._take("14f"), strict=True))
        assert self._at == len(data)

    def _take(self, form: str) -> tuple:
        values = struct.unpack_from("<" + form, self._data, self._at)
        self._at += struct.calcsize("<" + form)
        return values

    @property
    def gaze(self) -> np.ndarray:
        """(2, 3): where the right and left pupil lie from their eyeballs' centres; x to the person's right, y up."""
        return self.points_3d[[66, 67]] - self.points_3d[[68, 69]]


def open_see(ear: socket.socket, points: np.ndarray) -> OpenSee:
    with closing(OpenSeeFaceSink(address(ear))) as sink:
        (packet,) = heard(ear, sink, scene(face(points, 7)))  # and nothing of the scene without faces
    assert len(packet) == 1785
    return OpenSee(packet)


@pytest.mark.parametrize("turn", [(0, 0, 0), TO_THEIR_LEFT, UP, TO_THEIR_RIGHT_SHOULDER, (35, 20, -30), (-10, -25, 15)])
def test_openseeface_gets_a_pose_that_shows_the_face_where_it_is(ear, turn):
    points = seen(*turn, at=(0, 0, 20))  # far away, where a face behind the camera looks like one before it
    told = open_see(ear, points)
    x, y, z = np.radians(told.raw_euler)
    about_x, about_y, about_z = (cv2.Rodrigues(np.multiply(np.eye(3)[i], (x, y, z)[i]))[0] for i in range(3))
    matrix = about_z @ about_y @ about_x  # as RQDecomp3x3 has it
    # As its tracker has it: rows before columns, and a head with x to the person's right, y up, z out of the face.
    # Its solver starts at nothing and ends behind the camera: with its own code a frontal face has 180, 0, 90.
    head = (HEAD - HEAD[54]) / -UNIT
    placed = head @ matrix.T + told.raw_translation
    assert placed[:, 2].max() < 0
    rows_and_columns = placed[:, :2] / placed[:, 2:] * LENS.focal + LENS.centre[::-1]
    assert np.allclose(rows_and_columns[:, ::-1], points, atol=0.01 * np.ptp(points))
    x, y, z, w = told.quaternion  # of the transposed matrix, as its matrix_to_quaternion has it
    again = cv2.Rodrigues(2 * math.acos(min(w, 1)) * np.array([x, y, z]) / max(np.linalg.norm([x, y, z]), 1e-9))[0]
    assert np.allclose(again.T, matrix, atol=0.001)
    assert np.linalg.norm(told.quaternion) == pytest.approx(1, abs=1e-5)


def test_openseeface_gets_the_signs_that_its_receiver_expects(ear):
    def upright(points) -> np.ndarray:
        return (np.array(open_see(ear, points).rotation) + 180) % 360 - 180

    assert np.allclose(upright(seen()), 0, atol=0.3)
    assert np.allclose(upright(seen(*TO_THEIR_LEFT)), (0, -20, 0), atol=0.3)
    assert np.allclose(upright(seen(*UP)), (15, 0, 0), atol=0.3)
    assert np.allclose(upright(seen(*TO_THEIR_RIGHT_SHOULDER)), (0, 0, 12), atol=0.3)
    assert np.allclose(upright(mirrored(seen(*TO_THEIR_LEFT))), (0, 20, 0), atol=0.3)
    assert np.allclose(upright(mirrored(seen(*TO_THEIR_RIGHT_SHOULDER))), (0, 0, -12), atol=0.3)
    here, there = (open_see(ear, seen(at=at)).translation for at in (AHEAD, (0.1, -0.05, 0.7)))
    assert np.allclose(np.subtract(there, here) * UNIT, (0.1, 0.05, 0.1), atol=0.02)  # to their left, up, away


def test_openseeface_gets_every_number_in_its_place(ear):
    points = seen()
    told = open_see(ear, points)
    assert abs(told.time - time.time()) < 60
    assert told.id == 0  # the one that receivers look at
    assert told.resolution == (640, 480) and told.got_3d == 1 and 0 <= told.error < 1
    assert told.right_open > 0.95 and told.left_open > 0.95
    assert np.allclose(told.confidence, 0.9)
    for osf, wflw in ((0, 0), (8, 16), (16, 32), (30, 54), (33, 57), (36, 60), (45, 72), (48, 77), (52, 81)):
        assert np.allclose(told.points[osf], points[wflw], atol=0.01)
    for osf, wflw in (
        (53, 83),
        (57, 87),
        (58, 76),
        (59, 89),
        (61, 91),
        (62, 82),
        (63, 93),
        (65, 95),
        (66, 96),
        (67, 97),
    ):
        assert np.allclose(told.points[osf], points[wflw], atol=0.01)
    assert np.allclose(told.points_3d[30], 0, atol=0.01)  # the tip of the nose
    assert told.points_3d[36][0] > 0 > told.points_3d[45][0]  # the right eye on the right
    assert told.points_3d[8][1] < -0.4  # the chin below
    assert told.points_3d[36][0] - told.points_3d[45][0] == pytest.approx(0.65962, abs=0.01)
    assert max(map(abs, told.features.values())) < 0.1


def test_openseeface_gets_what_the_face_does(ear):
    assert open_see(ear, seen(head=OPEN_MOUTH)).features["mouth_open"] > 0.6
    told = open_see(ear, seen(head=shut_eye(right=False)))
    assert told.left_open < 0.2 and told.right_open > 0.8
    assert told.features["eye_l"] < -0.8 and told.features["eye_r"] > -0.2
    told = open_see(ear, mirrored(seen(head=shut_eye(right=False))))
    assert told.right_open < 0.2 and told.left_open > 0.8
    told = open_see(ear, seen(head=changed((tuple(range(42, 51)), (0, -0.09)))))
    assert told.features["brow_l"] > 0.5 and told.features["brow_r"] < 0.5
    told = open_see(ear, seen(head=changed(((82,), (0.06, -0.08)))))
    assert told.features["updown_l"] > 0.5 and abs(told.features["updown_r"]) < 0.2


def test_openseeface_gets_the_gaze(ear):
    right, left = open_see(ear, seen()).gaze
    assert np.allclose(right[:2], 0, atol=0.01) and right[2] < -0.02  # Unity's z goes into the head
    right, left = open_see(ear, seen(head=looking(5, 0))).gaze  # to their left
    assert right[0] < -0.02 and left[0] < -0.02
    right, left = open_see(ear, seen(head=looking(0, -4))).gaze  # up
    assert right[1] > 0.01 and left[1] > 0.01


def test_openseeface_gets_all_faces_in_one_datagram(ear):
    near, far = face(seen(at=(0.15, 0, 0.5)), 5), face(seen(at=(-0.2, 0, 1.2)), 3)
    with closing(OpenSeeFaceSink(address(ear))) as sink:
        (packet,) = heard(ear, sink, scene(far, near))
    assert len(packet) == 2 * 1785
    first, second = OpenSee(packet[:1785]), OpenSee(packet[1785:])
    assert (first.id, second.id) == (0, 3)
    assert np.allclose(first.points[30], near.points[54], atol=0.01)


# iFacialMocap


def mocap(ear: socket.socket, points: np.ndarray) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Shapes and bones, as receivers take the text apart."""
    with closing(IFacialMocapSink(address(ear))) as sink:
        (packet,) = heard(ear, sink, scene(face(points)))
    assert len(packet) < MOST_BYTES
    text = packet.decode("ascii")
    assert text.count("=") == 1 and text.endswith("|")
    before, after = text.split("=")
    shapes = {name: int(value) for name, value in (item.split("-") for item in before.rstrip("|").split("|"))}
    bones = {item.split("#")[0]: list(map(float, item.split("#")[1].split(","))) for item in after[:-1].split("|")}
    assert all(0 <= value <= 100 for value in shapes.values())
    return shapes, bones


def test_ifacialmocap_gets_all_its_names(ear):
    shapes, bones = mocap(ear, seen())
    sample = """mouthSmile_R eyeLookOut_L mouthUpperUp_L eyeWide_R mouthClose mouthPucker mouthRollLower eyeBlink_R
        eyeLookDown_L cheekSquint_R eyeBlink_L tongueOut jawRight eyeLookIn_R cheekSquint_L mouthDimple_L mouthPress_L
        eyeSquint_L mouthRight mouthShrugLower eyeLookUp_R eyeLookOut_R mouthPress_R cheekPuff jawForward
        mouthLowerDown_L mouthFrown_L mouthShrugUpper browOuterUp_L browInnerUp mouthDimple_R browDown_R mouthUpperUp_R
        mouthRollUpper mouthFunnel mouthStretch_R mouthFrown_R eyeLookDown_R jawOpen jawLeft browDown_L mouthSmile_L
        noseSneer_R mouthLowerDown_R noseSneer_L eyeWide_L mouthStretch_L browOuterUp_R eyeLookIn_L eyeSquint_R
        eyeLookUp_L mouthLeft mouthSmile_L mouthStretch_L"""
    assert set(shapes) == set(sample.split()) and len(shapes) == 52
    assert [len(bones[name]) for name in ("head", "rightEye", "leftEye")] == [6, 3, 3]
    assert np.allclose(bones["head"], (0, 0, 0, 0, 0, -0.6), atol=0.02)


def test_ifacialmocap_gets_the_signs_of_a_telephone(ear):
    head = mocap(ear, seen(*TO_THEIR_LEFT))[1]["head"]
    assert np.allclose(head[:3], (0, 20, 0), atol=0.3)
    assert np.allclose(mocap(ear, seen(*UP))[1]["head"][:3], (-15, 0, 0), atol=0.3)
    assert np.allclose(mocap(ear, seen(*TO_THEIR_RIGHT_SHOULDER))[1]["head"][:3], (0, 0, 12), atol=0.3)
    head = mocap(ear, mirrored(seen(-20, -10, -12)))[1]["head"]
    assert np.allclose(head[:3], (-10, -20, -12), atol=0.3)
    x, y, z = mocap(ear, seen(at=(0.1, -0.05, 0.7)))[1]["head"][3:]
    assert (x, y, z) == pytest.approx((0.1, 0.05, -0.7), abs=0.01)  # to their left, up, away from the camera


def test_ifacialmocap_gets_eyes_and_mouth(ear):
    assert mocap(ear, seen(head=OPEN_MOUTH))[0]["jawOpen"] > 60
    shapes, bones = mocap(ear, seen(head=shut_eye(right=False)))
    assert shapes["eyeBlink_L"] > 80 and shapes["eyeBlink_R"] < 20
    assert bones["leftEye"] == [0, 0, 0]
    shapes, _ = mocap(ear, mirrored(seen(head=shut_eye(right=False))))
    assert shapes["eyeBlink_R"] > 80 and shapes["eyeBlink_L"] < 20
    # In the published sample the right eye looks in, which is to the person's left, and its y is above 0.
    shapes, bones = mocap(ear, seen(head=looking(5, 3)))  # to their left and down
    assert shapes["eyeLookIn_R"] > 30 and shapes["eyeLookOut_L"] > 30 and shapes["eyeLookDown_L"] > 20
    assert bones["rightEye"][1] > 15 and bones["leftEye"][1] > 15 and bones["leftEye"][0] > 8


# VMC

pythonosc = pytest.importorskip("pythonosc", reason="VMC and OSC need the extra 'osc'")
from pythonosc.osc_bundle import OscBundle  # noqa: E402


def vmc(ear: socket.socket, points: np.ndarray, head: bool = True) -> list[tuple[str, list]]:
    with closing(VmcSink(address(ear), head=head)) as sink:
        packets = heard(ear, sink, scene(face(points)))
    assert len(packets) == 3 and all(len(packet) <= 1500 for packet in packets)
    bundles = [[(message.address, message.params) for message in OscBundle(packet)] for packet in packets]
    assert ("/VMC/Ext/Blend/Apply", []) not in bundles[0]
    assert [address for address, _ in bundles[1]].count("/VMC/Ext/Blend/Apply") == 1
    assert bundles[2][0] == ("/VMC/Ext/OK", [1, 3, 0, 0])  # nobody there
    return bundles[0] + bundles[1]


def values(messages: list[tuple[str, list]]) -> dict[str, float]:
    shapes = [params for name, params in messages if name == "/VMC/Ext/Blend/Val"]
    assert all(isinstance(name, str) and isinstance(value, float) for name, value in shapes)
    assert len(shapes) == len(dict(shapes))
    return dict(shapes)


def test_vmc_gets_shapes_then_apply_then_state(ear):
    messages = vmc(ear, seen())
    names = [name for name, _ in messages]
    last_value = max(i for i, name in enumerate(names) if name == "/VMC/Ext/Blend/Val")
    assert names[last_value + 1] == "/VMC/Ext/Blend/Apply"
    assert names[-2:] == ["/VMC/Ext/OK", "/VMC/Ext/T"]
    assert dict(messages)["/VMC/Ext/OK"] == [1, 3, 0, 1]
    (seconds,) = dict(messages)["/VMC/Ext/T"]
    assert isinstance(seconds, float) and 0 <= seconds < 60
    assert set(values(messages)) >= {*SHAPES, "A", "I", "U", "O", "Blink", "Blink_L", "Blink_R", "Joy"}
    assert "cheekPuff" not in values(messages)


def turned(quaternion: list[float], vector: tuple[float, float, float]) -> np.ndarray:
    """A vector turned by a quaternion, in Unity as anywhere."""
    axis, w = np.array(quaternion[:3]), quaternion[3]
    return vector + 2 * np.cross(axis, np.cross(axis, vector) + w * np.array(vector))


def test_vmc_turns_the_head_as_the_person_does(ear):
    def face_axis(turn, mirror=False) -> tuple[np.ndarray, np.ndarray]:
        """Where the avatar's face and the top of its head point to: x to its right, y up, z before it."""
        points = mirrored(seen(*turn)) if mirror else seen(*turn)
        bones = {params[0]: params[1:] for name, params in vmc(ear, points) if name == "/VMC/Ext/Bone/Pos"}
        assert set(bones) == {"Neck", "Head"} and all(bone[1] > 0.05 for bone in bones.values())
        forward, top = (turned(bones["Neck"][3:], turned(bones["Head"][3:], axis)) for axis in ((0, 0, 1), (0, 1, 0)))
        return forward, top

    forward, _ = face_axis(TO_THEIR_LEFT)
    assert forward[0] == pytest.approx(-math.sin(math.radians(20)), abs=0.01)  # to its left
    forward, _ = face_axis(UP)
    assert forward[1] == pytest.approx(math.sin(math.radians(15)), abs=0.01)
    _, top = face_axis(TO_THEIR_RIGHT_SHOULDER)
    assert top[0] == pytest.approx(math.sin(math.radians(12)), abs=0.01)
    forward, _ = face_axis(TO_THEIR_LEFT, mirror=True)
    assert forward[0] > 0.3


def test_vmc_gets_eyes_and_mouth_by_both_kinds_of_names(ear):
    shapes = values(vmc(ear, seen(head=OPEN_MOUTH)))
    assert shapes["jawOpen"] > 0.6 and shapes["A"] > 0.6
    shapes = values(vmc(ear, seen(head=shut_eye(right=False))))
    assert shapes["eyeBlinkLeft"] > 0.8 and shapes["Blink_L"] > 0.7 and shapes["Blink"] < 0.2 > shapes["Blink_R"]
    shapes = values(vmc(ear, mirrored(seen(head=shut_eye(right=False)))))
    assert shapes["Blink_R"] > 0.7 and shapes["Blink_L"] < 0.2
    both = shut_eye(right=False)
    both[60:68] = shut_eye(right=True)[60:68]
    shapes = values(vmc(ear, seen(head=both)))
    assert shapes["Blink"] > 0.8 and shapes["Blink_L"] < 0.1 > shapes["Blink_R"]


def test_vmc_leaves_the_head_alone_unless_asked(ear):
    assert "/VMC/Ext/Bone/Pos" not in dict(vmc(ear, seen(), head=False))


def test_an_eye_that_shuts_keeps_where_it_looked(ear):
    person = calm()
    aside, shut = looking(5, 0), shut_eye(right=False)
    with closing(VmcSink(address(ear))) as sink:
        packets = heard(
            ear, sink, *(scene(face(seen(head=head), 1, person, at)) for at, head in ((0.1, aside), (0.2, shut)))
        )
    told = [(message.address, message.params) for packet in packets for message in OscBundle(packet)]
    looks = [params[1] for name, params in told if name == "/VMC/Ext/Blend/Val" and params[0] == "eyeLookOutLeft"]
    assert looks[0] > 0.3 and looks[1] == looks[0]


# OSC


def test_osc_gets_pose_and_measures_in_small_datagrams(ear):
    one, other = face(seen(*TO_THEIR_LEFT, at=(0.1, 0, 0.7)), 1), face(seen(at=(-0.15, 0, 0.8), head=OPEN_MOUTH), 2)
    with closing(OscSink(address(ear), measures=True)) as sink:
        packets = heard(ear, sink, scene(one, other, index=12, time=0.4))
    assert len(packets) == 5 and all(len(packet) <= MOST_BYTES for packet in packets)
    told = [[(message.address, message.params) for message in OscBundle(packet)] for packet in packets]
    assert all(bundle[0] == ("/tabrt/frame", [12, 0.4, 640, 480, 2]) for bundle in told[:4])
    assert told[4] == [("/tabrt/frame", [0, 0.0, 640, 480, 0])]
    assert [name for name, _ in told[0]] == ["/tabrt/frame", "/tabrt/face", "/tabrt/pose"]
    number, score, *points = dict(told[0])["/tabrt/face"]
    assert (number, round(score, 3)) == (1, 0.9) and np.allclose(np.reshape(points, (98, 2)), one.points, atol=0.01)
    pose = dict(told[0])["/tabrt/pose"]
    assert pose[0] == 1 and np.allclose(pose[1:4], one.pose.angles, atol=0.01)
    assert np.allclose(pose[4:7], (0.1, 0, 0.7), atol=0.01) and np.allclose(pose[7:], one.pose.quaternion, atol=1e-4)
    number, *pairs = dict(told[3])["/tabrt/measures"]
    shapes = dict(zip(pairs[::2], pairs[1::2], strict=True))
    assert number == 2 and shapes["jawOpen"] > 0.6 and set(shapes) == set(SHAPES)
    assert dict(told[3])["/tabrt/gaze"][0] == 2


def test_osc_without_measures_is_the_points_alone(ear):
    with closing(OscSink(address(ear))) as sink:
        packets = heard(ear, sink, scene(face(seen())))
    assert [[message.address for message in OscBundle(packet)] for packet in packets] == [
        ["/tabrt/frame", "/tabrt/face"],
        ["/tabrt/frame"],
    ]


# All of them


@pytest.mark.parametrize("kind", [OpenSeeFaceSink, IFacialMocapSink, VmcSink, OscSink])
def test_a_listener_that_is_not_there_is_told_of_once_and_ends_nothing(kind, caplog, monkeypatch):
    with closing(kind("127.0.0.1:9")) as sink, caplog.at_level(logging.WARNING, "tabrt"):
        sink._socket.close()  # every sending fails from now on
        for _ in range(5):
            sink(scene(face(seen())))
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1 and re.match(rf"{kind.option} 127.0.0.1:9: cannot send \(.+\)", warnings[0])


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("127.0.0.1:9000", None, ("127.0.0.1", 9000)),
        ("9000", None, ("127.0.0.1", 9000)),
        ("[::1]:9000", None, ("::1", 9000)),
        ("192.168.0.7", 11573, ("192.168.0.7", 11573)),
        ("localhost", 39540, ("localhost", 39540)),
        ("localhost:39539", 39540, ("localhost", 39539)),
        ("[::1]", 39540, ("::1", 39540)),
        (":39539", 39540, ("127.0.0.1", 39539)),
    ],
)
def test_addresses(text: str, default: int | None, expected: tuple[str, int]):
    assert host_and_port(text, default) == expected


@pytest.mark.parametrize(("text", "default"), [("nowhere", None), ("a:b", 9000), ("", 9000), ("a:99999", 9000)])
def test_addresses_that_are_none(text: str, default: int | None):
    with pytest.raises(TabrtError, match="no HOST:PORT"):
        host_and_port(text, default)


def test_an_avatar_stays_with_the_one_it_follows():
    performer = Performer()
    small, large = face(seen(at=(0, 0, 1.5)), 1), face(seen(at=(0.2, 0, 0.5)), 2)
    assert performer(scene(small, large)).face.id == 2
    smaller = face(seen(at=(0.2, 0, 2.5)), 2)
    assert performer(scene(small, smaller)).face.id == 2
    assert performer(scene(small)).face.id == 1
    assert performer(scene()) is None


def test_the_names_of_arkit():
    assert set(SHAPES) < set(ARKIT)
    assert AHEAD[2] / EYE_DISTANCE > 1 and len(SURE) == 98
