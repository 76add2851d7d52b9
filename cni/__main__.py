"""`python -I -m cni SPOOL`: does one request without an agent, as the launcher asks where it was installed so.

Reads the environment and standard input as any CNI plugin does. An agent and other requests are excluded by the lock of
the store. Of the Node object it knows what an agent last wrote down beside it. A DEL that cannot be done is kept in the
spool, as the launcher itself would have done.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

from cni import environment, spool
from cni.failure import Code, Failure
from cni.keeper import Keeper
from cni.known_network import known
from cni.node import NodeAttachments
from cni.plugin import Plugin, refusal
from cni.request import Command, Reply, Request
from cni.sysctls import allowed
from netplane.errors import NetplaneError

_STORE_SECONDS = 10.0
_PREFIX = "CNI_"


def main() -> int:
    """Do what the environment and standard input ask; the exit code."""
    request = _request()
    try:
        reply = _answer(request, Path(sys.argv[1]))
    except Exception as error:
        reply = refusal(request, Failure(Code.INTERNAL, f"netplane failed: {error!r}"))
    finally:
        if request.netns_fd >= 0:
            os.close(request.netns_fd)
    sys.stdout.buffer.write(reply.stdout)
    return reply.code


def serve(request: Request, folder: Path) -> Reply:
    """The answer to one request; whatever it begins is finished when this returns. The store is where the spool is.

    Raises NetplaneError if the store cannot be used, or another process has it.
    """
    with ExitStack() as stack:
        node = stack.enter_context(NodeAttachments(folder.parent, _STORE_SECONDS))
        network = known(folder.parent)
        plugin = Plugin(node, lambda: network, allowed())
        # Nobody will look again in five seconds.
        keeper = stack.enter_context(Keeper(plugin, folder, settle=0.0))
        keeper.start()
        keeper.give_back(again=True)
        return plugin.handle(request)


def _answer(request: Request, folder: Path) -> Reply:
    try:
        command = environment.invocation(request.environment).command
        try:
            return serve(request, folder)
        except NetplaneError:
            if command is not Command.DEL:
                raise
            spool.put(folder, request)
            return Reply(0)
    except Failure as failure:
        return refusal(request, failure)
    except NetplaneError as error:
        return refusal(request, Failure(Code.TRY_AGAIN_LATER, str(error)))


def _request() -> Request:
    variables = {name: value for name, value in os.environ.items() if name.startswith(_PREFIX)}
    path, fd, number = variables.get("CNI_NETNS", ""), -1, 0
    if path:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            number = getattr(error, "errno", 0) or 0
    return Request(variables, sys.stdin.buffer.read(), fd, number)


if __name__ == "__main__":
    with suppress(BrokenPipeError):  # the runtime has given up
        sys.exit(main())
