"""Imports tabrt and collects its tests as if this were Windows: `python tests/as_windows.py [what pytest takes]`.

What only Linux and macOS have is taken away; packages of others are imported first, for they may use it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import signal
import sys

OTHERS = (
    *("asyncio", "multiprocessing.pool", "concurrent.futures.process", "pdb", "logging.handlers", "unittest.mock"),
    *("numpy", "cv2", "av", "onnxruntime", "pytest", "_pytest.capture", "_pytest.terminal", "pytest_timeout"),
    *("typer.testing", "rich.console", "rich.progress", "rich.live", "rich.traceback", "rich.markdown"),
    *("torch", "torch.distributed", "torch.utils.data", "torch._dynamo", "lightning_fabric", "h5py", "safetensors"),
    *(
        "onnx",
        "onnxscript",
        "openvino",
        "distributed",
        "starlette.applications",
        "uvicorn",
        "pandas",
        "matplotlib.pyplot",
    ),
)
MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "termios", "tty")
OF_OS = (
    *("O_NONBLOCK", "fork", "getegid", "geteuid", "getgid", "getuid", "killpg", "mkfifo", "sched_getaffinity"),
    *("sched_setaffinity", "setsid", "statvfs", "sysconf", "uname", "wait4", "waitid"),
)
OF_SIGNAL = (
    "SIGALRM",
    "SIGCONT",
    "SIGHUP",
    "SIGKILL",
    "SIGPIPE",
    "SIGSTOP",
    "SIGUSR1",
    "SIGXFSZ",
    "alarm",
    "setitimer",
)


def main() -> int:
    for name in OTHERS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules.update(dict.fromkeys(MODULES))
    for module, names in ((os, OF_OS), (signal, OF_SIGNAL)):
        for name in names:
            with contextlib.suppress(AttributeError):
                delattr(module, name)
    sys.platform = "win32"
    import pytest

    import tabrt
    from tabrt.errors import EngineUnavailable

    for found in pkgutil.walk_packages(tabrt.__path__, "tabrt."):
        if not found.name.endswith("__main__"):
            with contextlib.suppress(EngineUnavailable):
                importlib.import_module(found.name)
    plain = ["--collect-only", "-q", "-s", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-W", "ignore"]
    return pytest.main([*plain, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
