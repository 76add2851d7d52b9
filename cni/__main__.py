"""`python -I -m cni SPOOL`: does one request without an agent, as the launcher asks where it was installed so.

Reads the environment and standard input as any CNI plugin does. An agent and other requests are excluded by the lock of
the store; what the Node object says is not known here, so that `ipam.nodeRanges` is answered "try again later".
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from cni.failure import Code, Failure
from cni.keeper import Keeper
from cni.node import NodeAttachments
from cni.plugin import NodeNetwork, Plugin, refusal
from cni.request import Reply, Request
from cni.sysctls import allowed
from netplane.errors import NetplaneError

_STORE_SECONDS = 10.0
_PREFIX = "CNI_"


def main() -> int:
    """Do what the environment and standard input ask; the exit code."""
    request = _request()
    try:
        reply = serve(request, Path(sys.argv[1]))
    except NetplaneError as error:
        failure = error if isinstance(error, Failure) else Failure(Code.TRY_AGAIN_LATER, str(error))
        reply = refusal(request, failure)
    finally:
        if request.netns_fd >= 0:
            os.close(request.netns_fd)
    sys.stdout.buffer.write(reply.stdout)
    return reply.code


def serve(request: Request, spool: Path) -> Reply:
    """The answer to one request; whatever it begins is finished when this returns. The store is where the spool is.

    Raises NetplaneError if the store cannot be used, or another process has it.
    """
    with ExitStack() as stack:
        node = stack.enter_context(NodeAttachments(spool.parent, _STORE_SECONDS))
        plugin = Plugin(node, NodeNetwork, allowed())
        Keeper(plugin, spool).start()
        return plugin.handle(request)


def _request() -> Request:
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
    path, fd, number = environment.get("CNI_NETNS", ""), -1, 0
    if path:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", 0) or 0
    return Request(environment, sys.stdin.buffer.read(), fd, number)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the runtime has given up
        sys.exit(main())
