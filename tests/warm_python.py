"""A `python` for tests that has torch and timm imported already: a stage starts in a fraction of a
second.

A server imports the libraries, none of the project's own code, and forks for each `python -m
stages NAME`; the child runs the code of the folder it is started in. Every other command goes to
the real python. Promises about processes (signals, parents, several ranks) need the real one:
`Project.start(..., real=True)`.

    python -m tests.warm_python SOCKET PID     # serves until the process PID is gone
"""

import array
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBRARIES = (
    *(
        "torch",
        "torch.distributed",
        "torchvision.transforms.v2",
        "torchvision.datasets",
        "timm",
        "timm.optim",
    ),
    *(
        "scipy.stats",
        "scipy.special",
        "sklearn.linear_model",
        "sklearn.metrics",
        "sklearn.model_selection",
    ),
    *(
        "sklearn.datasets",
        "matplotlib.figure",
        "matplotlib.backends.backend_agg",
        "matplotlib.colors",
        "PIL.Image",
    ),
    *(
        "pydantic",
        "ruamel.yaml",
        "safetensors.torch",
        "psutil",
        "tqdm",
        "filelock",
        "huggingface_hub",
    ),
)
KILL_AT = "VIT_TEST_KILL_AT"  # number of a stage's change to the disk before which it is killed
CHANGES = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "os.link",
    "os.symlink",
)
CLIENT = """#!{python} -SEs
import array, json, os, socket, sys
if not (len(sys.argv) > 2 and sys.argv[1:3] == ["-m", "stages"]):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect("{socket}")
    request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
    streams = array.array("i", [0, 1, 2])
    size = len(request).to_bytes(8)
    server.sendmsg([size], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    server.sendall(request)
    status = server.recv(16)
    os._exit(int(status)) if status else os.kill(os.getpid(), 9)
"""


def warm_folder(place: Path) -> Path:
    """A folder with a `python` to put first on PATH; its server lives as long as the test run."""
    folder = place / "warm"
    meeting = place / "warm.socket"
    if not (folder / "python").exists():
        folder.mkdir(exist_ok=True)
        run = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
        command = [sys.executable, "-m", "tests.warm_python", str(meeting), str(run)]
        root = Path(__file__).resolve().parent.parent
        subprocess.Popen(command, cwd=root, start_new_session=True, stdin=subprocess.DEVNULL)
        while not meeting.exists():
            time.sleep(0.05)
        (folder / "python").write_text(CLIENT.format(python=sys.executable, socket=meeting))
        (folder / "python").chmod(0o755)
    return folder


def serve(meeting: str, run: int) -> None:
    for name in LIBRARIES:
        __import__(name)
    threading.Thread(target=_end_with, args=(run,), daemon=True).start()
    # children are not waited for: each reports by itself
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{meeting}.new")
        server.listen(64)
        os.rename(f"{meeting}.new", meeting)  # noqa: PTH104
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _run(connection)
            connection.close()


def _end_with(run: int) -> None:
    while Path(f"/proc/{run}").exists():
        time.sleep(1)
    os._exit(0)


def _run(connection: socket.socket) -> None:
    """In the child: become the process that was asked for, and report its exit status."""
    status = 1
    try:
        length, ancillary, *_ = connection.recvmsg(8, socket.CMSG_SPACE(12))
        descriptors = array.array("i", ancillary[0][2])
        request = b""
        while len(request) < int.from_bytes(length):
            request += connection.recv(1 << 20)
        (module, *arguments), folder, environment = json.loads(request)
        for target, source in enumerate(descriptors):
            os.dup2(source, target)
            os.close(source)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)
        if KILL_AT in environment:
            sys.addaudithook(_killer(folder, int(environment[KILL_AT])))
        sys.path[0] = folder
        sys.argv = [module, *arguments]
        sys.orig_argv = [sys.executable, "-m", module, *arguments]
        status = _status_of(module)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        connection.sendall(str(status).encode())
        os._exit(0)


def _killer(folder: str, point: int) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that kills this process right before its change number `point` to files below
    the folder."""
    changes = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event not in CHANGES or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100
        writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and path.startswith(folder):
            changes += 1
            if changes == point:
                os.kill(os.getpid(), signal.SIGKILL)

    return hook


def _status_of(module: str) -> int:
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
