"""The process that holds a lab: `python -m netplane.lab.holder FOLDER BACKEND STATE FD [OPTION...]`; OPTIONs are
`--agent`, `--cni`, `--routed`, `--network=MODE-OR-FILE` and `--two-subnets`.

Started by `hold.up` in a session of its own. Writes the lab's state to FD when everything is up, then waits for
SIGTERM or SIGINT. All that belongs to the lab ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

from netplane.errors import NetplaneError
from netplane.lab.case_settings import network_of
from netplane.lab.cases import load_cluster
from netplane.lab.hold import Held, start_time, write
from netplane.lab.run import by_agent, in_process, standing
from netplane.lab.topology import Attach


def main(words: list[str]) -> int:
    """Hold a lab until a signal; the exit code of a netplane command."""
    folder, backend, state, tell, *rest = words
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # handlers, not a mask: agents would inherit that
        signal.signal(number, lambda *_: end.set())
    try:
        attach = Attach.ROUTED if "--routed" in rest else Attach.BRIDGE
        told = next((word.partition("=")[2] for word in rest if word.startswith("--network=")), "none")
        network = network_of(told, two_subnets="--two-subnets" in rest)
        case = load_cluster(Path(folder), attach=attach, plugin="--cni" in rest, network=network)
        program = by_agent if "--agent" in rest else in_process
        with standing(case) as lab, program(lab, case, backend):
            paths = {name: str(namespace.path) for name, namespace in lab.namespaces().items()}
            mine = Held(f"{case.name}-{os.getpid()}", os.getpid(), start_time(os.getpid()), backend, paths)
            path = write(mine, Path(state))
            try:
                _tell(int(tell), mine)
                end.wait()
            finally:
                path.unlink(missing_ok=True)
    except NetplaneError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _tell(tell: int, mine: Held) -> None:
    """Say that all is up, and let go of whoever started us."""
    with os.fdopen(tell, "w") as pipe:
        json.dump(asdict(mine), pipe)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
