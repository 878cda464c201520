"""The isolation of workers from the machine, with Linux's namespaces. No other program is needed.

The forking process enters namespaces before it imports anything: it is the first process of a
process namespace (its death is that of all workers), has no network (not even a loopback that is
up) and sees a file system of its own: Python and the system's libraries, read-only, and nothing
else of the machine. Each worker then goes further: it is alone in a process namespace of its own,
has a small scratch directory in memory that is gone with it, and no privileges.

An ordinary user gets all that through a user namespace, one for all workers and one more for each,
which makes the limit on processes count for each worker alone. With root's privileges none is
needed: each worker becomes a user of its own instead.
"""

from __future__ import annotations

import errno
import os
import pwd
import random
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import vedette
from vedette.scoring import syscalls

SCRATCH = Path("/scratch")
SCRATCH_BYTES = 64 * 1024 * 1024

# What programs need of a system besides Python. /etc: no keys, no passwords, no settings of others.
_SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store"),
    *("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"),
    *("/etc/alternatives", "/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/localtime", "/etc/mime.types", "/etc/nsswitch.conf"),
    *("/etc/os-release", "/etc/passwd", "/etc/pki/tls/certs", "/etc/protocols", "/etc/services"),
    *("/etc/ssl/certs", "/etc/timezone"),
)
_SCRATCH_NAMES = ("tmp", "var/tmp", "dev/shm")
_SETGID, _SETUID, _SYS_ADMIN = 6, 7, 21  # numbers of capabilities
_USERS = range(61184, 65520)  # which systemd hands out in the same way, and nobody has


class Isolation:
    """Entered by the process that makes one of these. What returns is a child of the caller.

    Args:
        root: an empty directory, to mount the new root directory on.
        hidden: directories that must not be seen even where Python is installed around them.

    Raises:
        OSError: the kernel refuses some part; the message says which. The process is then of no
            further use.
    """

    def __init__(self, root: Path, hidden: Sequence[Path]) -> None:
        self._as_root = syscalls.has_capabilities(_SETGID, _SETUID, _SYS_ADMIN)
        self._user = os.getuid()
        if self._user == 0 and not self._as_root:  # to whom the limit on processes doesn't apply
            raise OSError(
                errno.EPERM, "root lacks CAP_SYS_ADMIN in this container; run as an ordinary user"
            )
        self._group = os.getgid()
        self._next_user = random.randrange(len(_USERS))
        shared = syscalls.NEW_MOUNTS | syscalls.NEW_PIDS | syscalls.NEW_NETWORK | syscalls.NEW_IPC
        if self._as_root:
            syscalls.unshare(shared)
        else:
            try:
                syscalls.unshare(shared | syscalls.NEW_USERS)
                self._be_in_user_namespace()
            except OSError as error:
                said = f"the kernel allows this user no user namespaces ({error.strerror})"
                raise OSError(error.errno, said) from error
        syscalls.keep_mounts_private()
        _build(root, hidden)
        if child := os.fork():
            _stand_for(child)
        syscalls.kill_with_parent(signal.SIGKILL)
        syscalls.mount("proc", root / "proc", "")
        self._pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.change_root(root)

    def fork(self) -> int:
        """As `os.fork`, but the child is the first of a process namespace of its own."""
        self._next_user = (self._next_user + 1) % len(_USERS)
        syscalls.unshare(syscalls.NEW_PIDS)
        child = -1
        try:
            child = os.fork()
        finally:
            if child != 0:
                syscalls.send_children_to(self._pids)
        return child

    def enter_worker(self) -> None:
        """In the child: a scratch directory, its own ``/proc``, and no privileges any more.

        Raises:
            OSError: the kernel refuses some part; the message says which.
        """
        os.close(self._pids)
        syscalls.unshare(syscalls.NEW_MOUNTS | syscalls.NEW_IPC)
        if self._as_root:
            self._user = self._group = _USERS[self._next_user]
        owner = f"uid={self._user},gid={self._group}"
        syscalls.mount("tmpfs", SCRATCH, f"size={SCRATCH_BYTES},nr_inodes=4096,mode=700,{owner}")
        syscalls.mount("proc", Path("/proc"), "")
        os.chdir(SCRATCH)
        if self._as_root:
            os.setgroups([])
            os.setresgid(self._group, self._group, self._group)
            os.setresuid(self._user, self._user, self._user)
            syscalls.own_own_files()
        else:
            syscalls.unshare(syscalls.NEW_USERS)
            self._be_in_user_namespace()
            with suppress(OSError):  # no more of them; a container may keep it from being written
                Path("/proc/sys/user/max_user_namespaces").write_text("0")
        syscalls.drop_capabilities()
        # The kernel sends the first process of a namespace only signals that it handles
        syscalls.exit_on(signal.SIGXCPU)
        for name in ("HOME", "TMPDIR"):
            os.environ[name] = str(SCRATCH)
        tempfile.tempdir = None  # what was found to be the directory for them, before

    def _be_in_user_namespace(self) -> None:
        """Be the same user there as outside."""
        own = Path("/proc/self")
        (own / "setgroups").write_text("deny")
        (own / "uid_map").write_text(f"{self._user} {self._user} 1")
        (own / "gid_map").write_text(f"{self._group} {self._group} 1")


def kill_all_others() -> None:
    """In a worker: end what the scorer started and left behind; reap it."""
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:  # there is nothing, as almost always
        return
    if os.getpid() != 1:  # else -1 would be every process of the user
        raise RuntimeError("not the first process of a namespace")
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _stand_for(child: int) -> NoReturn:
    """Be there for whom the child's parent is to see, until the child ends."""
    os.closerange(3, 65536)
    os.waitpid(child, 0)
    os._exit(0)


def _build(root: Path, hidden: Sequence[Path]) -> None:
    """Put what may be seen below ``root``."""
    syscalls.mount("tmpfs", root, "size=1m,mode=755")
    bound: list[Path] = []
    for path in _visible():
        target = root / path.relative_to("/")
        if path == root or not path.exists():
            continue
        if any(one in (path, *path.parents) for one in bound):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink():
            target.symlink_to(path.readlink())
            continue
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        syscalls.bind(path, target)
        bound.append(path)
    for directory in {*hidden, *(path.resolve() for path in hidden)}:
        target = root / directory.relative_to("/")
        if target.is_dir() and any(one in (directory, *directory.parents) for one in bound):
            syscalls.mount("tmpfs", target, "size=4k,mode=755")
    for name in ("proc", SCRATCH.name):
        (root / name).mkdir()
    for name in _SCRATCH_NAMES:
        if not (root / name).exists():  # as /tmp may, when Python is installed below it
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).symlink_to(SCRATCH)
    syscalls.make_read_only(root)


def _visible() -> Iterator[Path]:
    """The system's files and Python's, outer directories before inner ones."""
    python = [sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix, *sys.path]
    python += os.environ.get("LD_LIBRARY_PATH", "").split(":")
    python.append(str(Path(vedette.__file__).parent.parent))
    closed: set[Path] = set()
    with suppress(KeyError):  # in a container, a user need not have an entry
        home = Path(pwd.getpwuid(os.getuid()).pw_dir)
        closed = {home, *home.parents}
    own = {Path(path).absolute() for path in python if path}
    own = {one for path in own for one in (path, path.resolve())}
    for path in sorted({*map(Path, _SYSTEM), *own}, key=lambda path: len(path.parts)):
        if path not in closed:
            yield path
