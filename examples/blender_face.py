"""Moves a face in Blender: run it in Blender's text editor, then start tabrt live --osc 127.0.0.1:9000 --measures

The active mesh object gets its shape keys with ARKit's names set, and is turned as the head is. Only Python's own
library is used, for Blender brings no other. Outside Blender it prints what it hears: python examples/blender_face.py
"""

import socket
import struct
import sys
from math import radians

PORT = 9000


def messages(packet: bytes):
    """(address, arguments) of an OSC message or of all in a bundle."""
    if packet.startswith(b"#bundle\0"):
        at = 16  # after the name and the time
        while at < len(packet):
            (size,) = struct.unpack_from(">i", packet, at)
            yield from messages(packet[at + 4 : at + 4 + size])
            at += 4 + size
        return
    address, at = text(packet, 0)
    kinds, at = text(packet, at)
    values = []
    for kind in kinds[1:]:
        if kind == "s":
            value, at = text(packet, at)
        else:
            form = {"i": ">i", "f": ">f", "d": ">d"}[kind]
            (value,) = struct.unpack_from(form, packet, at)
            at += struct.calcsize(form)
        values.append(value)
    yield address, values


def text(packet: bytes, at: int) -> tuple[str, int]:
    """A string, and where the next thing begins: strings end with zeros, to a multiple of four."""
    end = packet.index(b"\0", at)
    return packet[at:end].decode(), end + 4 - end % 4


def heard(ear: socket.socket):
    """The newest (pose, shapes) of the first face, from all that has arrived; None for what has not."""
    pose = shapes = None
    while True:
        try:
            packet = ear.recv(65536)
        except BlockingIOError:
            return pose, shapes
        for address, values in messages(packet):
            if address == "/tabrt/pose":
                pose = values[1:4]  # yaw, pitch, roll in degrees
            elif address == "/tabrt/measures":
                shapes = dict(zip(values[1::2], values[2::2], strict=True))


def in_blender(ear: socket.socket) -> None:
    import bpy

    def step() -> float:
        pose, shapes = heard(ear)
        head = bpy.context.object
        if pose is not None and head is not None:
            yaw, pitch, roll = map(radians, pose)
            head.rotation_mode = "YXZ"
            head.rotation_euler = (pitch, roll, -yaw)  # Blender's z is up, and a face looks along -y
        keys = head.data.shape_keys.key_blocks if head is not None and head.data.shape_keys else {}
        for name, value in (shapes or {}).items():
            if name in keys:
                keys[name].value = value
        return 1 / 60  # seconds to the next step

    bpy.app.timers.register(step)


ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ear.bind(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdecimal() else PORT))
ear.setblocking(False)
try:
    in_blender(ear)
except ModuleNotFoundError:
    import time

    print("this is not Blender: what comes is printed, until Ctrl-C", flush=True)
    pose = [0, 0, 0]
    while True:
        newer, shapes = heard(ear)
        pose = newer or pose  # it comes before the shapes, and may have been heard before
        if shapes is not None:
            moving = ", ".join(f"{name} {value:.2f}" for name, value in shapes.items() if value > 0.2)
            print("yaw {:.0f}, pitch {:.0f}, roll {:.0f};".format(*pose), moving, flush=True)
        time.sleep(1 / 30)
