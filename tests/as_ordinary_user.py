"""``python tests/as_ordinary_user.py COMMAND...``: run a command as a user without any privileges.

Started by root, as in a container, it becomes `nobody`, to whom Python's own directories are first
made readable in a mount namespace that nobody else sees. With NO_NAMESPACES=1 the kernel refuses
this user, and only it, user namespaces.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from vedette.scoring import syscalls

NOBODY = 65534


def open_the_way(directory: Path) -> None:
    """Let a directory be reached that is below one which is closed to others, as /root is."""
    for parent in reversed(directory.parents):
        if not parent.stat().st_mode & 0o001:
            with tempfile.TemporaryDirectory() as aside:
                syscalls.bind(directory, Path(aside))
                syscalls.mount("tmpfs", parent, "mode=755")
                directory.mkdir(parents=True)
                syscalls.bind(Path(aside), directory)
                syscalls.detach(Path(aside))
            return


def refuse_user_namespaces() -> None:
    """In a user namespace of our own, which has a limit of its own."""
    own = Path("/proc/self")
    user = os.getuid()
    syscalls.unshare(syscalls.NEW_USERS)
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{user} {user} 1")
    (own / "gid_map").write_text(f"{user} {user} 1")
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    syscalls.drop_capabilities()


if __name__ == "__main__":
    if os.getuid() == 0:
        syscalls.unshare(syscalls.NEW_MOUNTS)
        syscalls.keep_mounts_private()
        open_the_way(Path(sys.base_prefix))
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        syscalls.own_own_files()
    if os.environ.pop("NO_NAMESPACES", None):
        refuse_user_namespaces()
    os.execv(sys.argv[1], sys.argv[1:])
