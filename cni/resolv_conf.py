"""A file like /etc/resolv.conf that the configuration names, read without ever waiting for it."""

from __future__ import annotations

import os
import stat

from cni.decode_ipam import resolv_conf
from cni.directory import read_all
from cni.failure import Code, Failure
from cni.result import Dns

_LONGEST = 1 << 16


def dns_of(path: str) -> Dns:
    """What the file says, as host-local passes it on; nothing if none is named. Raises Failure(INVALID_CONFIG).

    It must be a regular file of at most 64 KiB: a pipe would be waited for while every other container waits for us.
    """
    if not path:
        return Dns()
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ValueError("it is no regular file")
            content = read_all(fd, _LONGEST)
        finally:
            os.close(fd)
        if len(content) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST} bytes")
        return resolv_conf(content.decode())
    except (OSError, ValueError) as error:
        raise Failure(Code.INVALID_CONFIG, f"ipam.resolvConf: cannot read {path}", str(error)) from error
