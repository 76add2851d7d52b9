"""Who is at the other end of a unix socket, as the kernel noted it at connect(2) or listen(2) (SO_PEERCRED)."""

from __future__ import annotations

import socket
import struct

_CREDENTIALS = struct.Struct("=3i")  # struct ucred: pid, uid, gid


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process id (0: in a container we do not see into) and user."""
    pid, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user
