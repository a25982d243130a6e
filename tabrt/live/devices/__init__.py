"""The cameras of this machine: listed and opened by each system's own way, one module each."""

from tabrt.live.devices.camera import Camera
from tabrt.live.devices.system import cameras, open_camera, refusal, require_permission

__all__ = ["Camera", "cameras", "open_camera", "refusal", "require_permission"]
