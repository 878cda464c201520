"""Linux's calls for namespaces, mounts and privileges that Python's standard library lacks.

Each raises `OSError` with what was refused in its message.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

NEW_MOUNTS = 0x00020000
NEW_IPC = 0x08000000
NEW_USERS = 0x10000000
NEW_PIDS = 0x20000000
NEW_NETWORK = 0x40000000

NO_SUID = 2
NO_DEVICES = 4
_BIND = 4096
_RECURSIVE = 16384
_PRIVATE = 1 << 18
_DETACH = 2

_MOUNT_SETATTR = 442  # on every architecture that Python runs on; in glibc since 2.36 only
_CURRENT_DIRECTORY = -100
_AT_RECURSIVE = 0x8000
_READ_ONLY_NO_SUID = 0x1 | 0x2

_CAPABILITY_VERSION = 0x20080522
_PARENT_DEATH_SIGNAL, _DUMPABLE, _CHILD_SUBREAPER, _NO_NEW_PRIVILEGES = 1, 4, 36, 38

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(namespaces: int) -> None:
    """Leave these namespaces for new ones; pids: the children to be, not this process."""
    _check(_libc.unshare(namespaces), "new namespaces")


def send_children_to(pid_namespace: int) -> None:
    """Let children be born into the process namespace of this descriptor again."""
    _check(_libc.setns(pid_namespace, NEW_PIDS), "return to a process namespace")


def mount(kind: str, target: Path, options: str, flags: int = NO_SUID | NO_DEVICES) -> None:
    """Mount a new file system: ``tmpfs`` or ``proc``."""
    given = (kind.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags))
    _check(_libc.mount(*given, options.encode()), f"mount of {kind} on {target}")


def bind(source: Path, target: Path) -> None:
    """Let what is at ``source``, with all mounted below it, be at ``target`` too."""
    given = (os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(_BIND | _RECURSIVE))
    _check(_libc.mount(*given, None), f"bind mount of {source}")


def keep_mounts_private() -> None:
    """Let no mount of this namespace be seen in the one that it was copied from."""
    flags = ctypes.c_ulong(_PRIVATE | _RECURSIVE)
    _check(_libc.mount(None, b"/", None, flags, None), "private mounts")


def make_read_only(root: Path) -> None:
    """Make all that is mounted at and below ``root`` read-only, without set-uid programs."""
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY_NO_SUID, 0, 0, 0)
    result = _libc.syscall(
        _MOUNT_SETATTR,
        _CURRENT_DIRECTORY,
        os.fsencode(root),
        _AT_RECURSIVE,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    _check(result, "read-only mounts (Linux 5.12 or newer)")


def change_root(root: Path) -> None:
    """Make ``root`` the root of all processes of this mount namespace; the old one is gone."""
    os.chdir(root)
    _check(_libc.pivot_root(b".", b"."), "a new root directory")
    detach(Path("."))
    os.chdir("/")


def detach(target: Path) -> None:
    """Unmount what is mounted on ``target``."""
    _check(_libc.umount2(os.fsencode(target), _DETACH), f"unmounting {target}")


def drop_capabilities() -> None:
    """Give up every privilege of this process, for good."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(ctypes.byref(header), ctypes.byref(nothing)), "dropping capabilities")


def has_capabilities(*numbers: int) -> bool:
    """Whether this process has the privileges of these numbers (see capability.h)."""
    status = Path("/proc/self/status").read_text()
    effective = int(status.split("CapEff:")[1].split()[0], 16)
    return all(effective >> number & 1 for number in numbers)


def kill_with_parent(signal_number: int) -> None:
    """Have the kernel send this signal when the parent of this process dies."""
    _check(_libc.prctl(_PARENT_DEATH_SIGNAL, signal_number, 0, 0, 0), "PR_SET_PDEATHSIG")


def adopt_orphans() -> None:
    """Become the parent of what children of this process leave behind."""
    _check(_libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0), "PR_SET_CHILD_SUBREAPER")


def gain_no_privileges() -> None:
    """Let no program that this process starts have more privileges than it has."""
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "PR_SET_NO_NEW_PRIVS")


def own_own_files() -> None:
    """After a change of user: let ``/proc/self`` belong to the new one."""
    _check(_libc.prctl(_DUMPABLE, 1, 0, 0, 0), "PR_SET_DUMPABLE")


def exit_on(signal_number: int) -> None:
    """End this process, with the signal's number as its exit code, when it gets the signal.

    For the first process of a namespace, to which the kernel sends no signal that it does not
    handle. The handler is C's own ``_exit``: it needs no interpreter that comes to it.
    """
    handler = ctypes.cast(_libc._exit, ctypes.c_void_p)
    _libc.signal.restype = ctypes.c_void_p
    _libc.signal(signal_number, handler)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
