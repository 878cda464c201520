"""The engine's end of a judge host: start it, send to it, hear from it and of its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vedette.scoring.frames import FrameError, receive_frame, send_frame

logger = logging.getLogger(__name__)

_ANSWER_BYTES = 16 * 1024 * 1024
_SEND_TIMEOUT = struct.pack("ll", 60, 0)  # seconds, microseconds
_EXIT_SECONDS = 5.0


class JudgeProcess:
    """One judge host, from its start on.

    Args:
        directory: its working directory.
        environment: the whole of it.
        tracking_uri: of MLflow's server, if judges may ask it.
        heard: called with every message, in a thread of the process's own.
        ended: called once, in that thread, when there will be no more messages.
    """

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        tracking_uri: str | None,
        *,
        heard: Callable[[JudgeProcess, dict[str, Any]], None],
        ended: Callable[[JudgeProcess], None],
    ) -> None:
        self.started_at = self.heard_at = time.monotonic()
        self.ready = False
        self._heard, self._ended = heard, ended
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._popen = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-W", "ignore", "-m", "vedette.scoring.judge_host"),
                    *(str(theirs.fileno()), tracking_uri or ""),
                ],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a terminal's Ctrl-C is for the engine, which closes us
            )
        # Not a timeout of Python's, which would make the other thread's wait for messages fail
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIMEOUT)
        self._thread = threading.Thread(target=self._listen, name="judge-host", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def send(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        """Send one message. For one thread at a time.

        Raises:
            OSError: it has gone, or doesn't listen.
        """
        send_frame(self._connection, header, blobs)

    def kill(self) -> None:
        """End it and what it started, at once. `ended` is called. Harmless if it has ended."""
        with suppress(ProcessLookupError, PermissionError):
            if self._popen.poll() is None:
                os.killpg(self._popen.pid, signal.SIGKILL)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """`kill`, and wait until nothing of it is left."""
        self.kill()
        if threading.current_thread() is not self._thread:
            self._thread.join(_EXIT_SECONDS)

    def _listen(self) -> None:
        try:
            while True:
                header, _ = receive_frame(self._connection, limit=_ANSWER_BYTES)
                self.heard_at = time.monotonic()
                self.ready = self.ready or "ready" in header
                self._heard(self, header)
        except (FrameError, OSError):
            pass
        except Exception:
            logger.exception("what the process that runs judges says can't be understood")
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(_EXIT_SECONDS)
        self._ended(self)
        self._connection.close()
