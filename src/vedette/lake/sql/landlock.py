"""Linux's Landlock: a process gives up its access to files and to the network, for good.

Only the calling thread, and the threads and processes that it starts afterwards, are restricted.
See https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIRECTORY = 1 << 2, 1 << 3
_NO_NEW_PRIVILEGES = 38
# By the version of Landlock that brought it: execute, read, write, create, delete (1), move to
# other directories (2), truncate (3), ioctl of devices (5); connect to and listen on TCP ports (4);
# signals and abstract sockets of others (6)
_FILES = ((1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NETWORK = ((4, 3),)
_OTHERS = ((6, 3),)


def restrict(readable: Sequence[Path]) -> str | None:
    """Give up all files but those below ``readable``, which can be read, and all of the network.

    Args:
        readable: files and directories; those that aren't there are passed over.

    Returns:
        None, or why nothing was given up: the kernel has no Landlock.

    Raises:
        OSError: the kernel refuses to go on half way.
    """
    if sys.platform != "linux":
        return f"Landlock is Linux's, this is {sys.platform}"
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION)
    if version < 1:
        return f"the kernel has no Landlock ({os.strerror(ctypes.get_errno())})"
    handled = [
        sum(flags for since, flags in known if since <= version)
        for known in (_FILES, _NETWORK, _OTHERS)
    ]
    # Older kernels know only the first of these fields, and take no more
    attributes = struct.pack("<QQQ", *handled)[: 8 * (1 + (version >= 4) + (version >= 6))]
    size = ctypes.c_size_t(len(attributes))
    ruleset = _checked(libc.syscall(_CREATE_RULESET, attributes, size, 0), "a new ruleset")
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        access = _READ_FILE | (_READ_DIRECTORY if path.is_dir() else 0)
        rule = struct.pack("<Qi", access, place)
        _checked(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0), f"access to {path}")
        os.close(place)
    _checked(libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")
    _checked(libc.syscall(_RESTRICT_SELF, ruleset, 0), "the restriction")
    os.close(ruleset)
    return None


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock refuses {what}: {os.strerror(number)}")
    return result
