"""What to do about an error that a scorer's confinement, and not its code, is the cause of."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

from vedette.scoring.confinement import OPEN_FILES, PROCESSES
from vedette.scoring.isolation import SCRATCH_BYTES

_MIB = 1024 * 1024
_LONGEST_CHAIN = 20
_NO_NETWORK = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


def hint(error: BaseException, *, isolated: bool) -> str | None:
    """A sentence for whoever wrote the scorer, or None if the error speaks for itself.

    Args:
        isolated: the scorer runs in the sandbox ``container``.
    """
    for one in _causes(error):
        if isinstance(one, MemoryError):
            return "The scorer wanted more memory than a worker may have: let it hold less at once."
        if isinstance(one, RecursionError):
            return "The scorer called itself without end."
        if isinstance(one, OSError) and one.errno == errno.EMFILE:
            return f"A scorer may have {OPEN_FILES} open files: let it close what it opens."
        if isolated and isinstance(one, OSError) and (said := _of_isolation(one)):
            return said
    return None


def _of_isolation(error: OSError) -> str | None:
    if isinstance(error, socket.gaierror) or error.errno in _NO_NETWORK:
        return (
            "Code scorers have no network: leave what needs one to a judge, or set sandbox to "
            "process if you trust whoever registers scorers."
        )
    if error.errno == errno.EROFS:
        return "A scorer may write into its scratch directory only, that of the module tempfile."
    if error.errno == errno.ENOSPC:
        return f"Its scratch directory is full: there is room for {SCRATCH_BYTES // _MIB} MiB."
    if error.errno == errno.EAGAIN:
        return f"A scorer may not have more processes than {PROCESSES}, threads among them."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it was raised from."""
    one: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__
