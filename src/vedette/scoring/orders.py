"""What the engine and the process that forks workers say to each other, over a stream socket."""

from __future__ import annotations

import struct

# b"S": start a worker; its socket comes along. b"K" and a process id: kill that worker. b"E": end.
ORDER = struct.Struct("<cQ")

# b"R": ready. b"S" and a process id: that worker has started, answering the orders in turn.
# b"X", a process id and a wait status: that worker has ended.
EVENT = struct.Struct("<cQi")

# How the forking process and workers exit when the engine has gone without a word
ENGINE_GONE = 3
