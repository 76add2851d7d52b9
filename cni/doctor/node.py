"""Checks of what netplane keeps on the host: executables, configuration, the agent, addresses, attachments."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from cni import conflist, wire
from cni.attachment import LINK_PREFIXES
from cni.conflist import NetworkList
from cni.decode import LOOPBACK_TYPE, OWN_TYPE
from cni.doctor.finding import Finding, error, ok, warning
from cni.doctor.view import View
from cni.install import is_launcher, settings_of
from cni.ipam import Ipam
from cni.link_program import QUEUE_PREFIX, links_of
from cni.request import Reply, Request
from netplane.errors import NetplaneError

EXECUTABLES = (OWN_TYPE, LOOPBACK_TYPE)
_INSTALL = "netplane cni install"
_SECONDS = 5.0
_NEARLY = 0.9
_SHOWN = 5
_OTHERS_WRITE = 0o022
_PREFIXES = (*LINK_PREFIXES.values(), QUEUE_PREFIX)


def executables(view: View) -> Iterator[Finding]:
    """Whether the runtime finds our executable, and the one every Pod's `lo` needs."""
    for name in EXECUTABLES:
        path = view.place.bin_dir / name
        wrong = _wrong_with(path)
        why = f"the runtime cannot start any Pod: it looks for {name!r} in {view.place.bin_dir}"
        yield error(f"{path}: {wrong}", why, _INSTALL) if wrong else _launcher(view, path)


def _launcher(view: View, path: Path) -> Finding:
    """Whether a launcher of ours asks where the agent listens. `loopback` may be another's."""
    content = path.read_bytes()
    if not is_launcher(content):
        if path.name == OWN_TYPE:
            return error(f"{path} is not netplane's", "it answers for another plugin, or not at all", _INSTALL)
        return ok(f"{path} is another plugin's")
    asks = settings_of(content).socket
    if asks != view.place.socket.absolute():
        run_dir = view.place.run_dir
        why = "no Pod is attached while nobody listens there"
        return error(f"{path} asks {asks}, not {view.place.socket}", why, f"{_INSTALL} --run-dir {run_dir}")
    return ok(f"{path} asks {asks}")


def configuration(view: View) -> Iterator[Finding]:
    """Whether the network of all Pods is ours, and can be decoded."""
    directory = view.place.conf_dir
    why = "the runtime takes the first file in order of names, and no Pod starts while that one is wrong"
    try:
        found = conflist.files(directory)
        network = conflist.read(found[0]) if found else None
    except NetplaneError as wrong:
        yield error(str(wrong), why, f"mend or remove it; {_INSTALL} writes a new one")
        return
    if network is None:
        yield error(f"{directory}: no network is configured", "the node stays NotReady", _INSTALL)
    elif network.own is None:
        types = ", ".join(each["type"] for each in network.plugins)
        yield error(
            f"{network.path} comes first and is not ours ({types})",
            "Pods are attached by other plugins",
            f"mv {network.path} {network.path}.off, after {_INSTALL}",
        )
    else:
        yield _decoded(network)


def agent(view: View) -> Iterator[Finding]:
    """Whether the agent answers, and says that it could attach a container now."""
    socket, network = view.place.socket, view.network
    if network is None or network.own is None:
        yield ok("the agent is not asked: the network is not ours")
        return
    config = conflist.request(network, network.own, {}) | {"cniVersion": "1.1.0"}
    environment = {"CNI_COMMAND": "STATUS", "CNI_PATH": str(view.place.bin_dir)}
    try:
        reply = wire.call(socket, Request(environment, json.dumps(config).encode()), _SECONDS)
    except (NetplaneError, OSError) as refusal:
        why = "Pods are not attached until it is back (code 11, the runtime tries again); deletions are spooled"
        yield error(f"no agent answers at {socket}: {refusal}", why, "systemctl start netplane")
        return
    if reply.code == 0:
        yield ok("the agent answers and can attach containers")
    else:
        yield error(f"the agent cannot attach containers: {_said(reply)}", "Pods do not start", "netplane agent status")


def pool(view: View) -> Iterator[Finding]:
    """Whether addresses are left."""
    network, ipam = view.network, view.config.ipam if view.config else None
    if network is None or ipam is None or not ipam.sets:
        yield ok("how many addresses are left, the agent knows (nodeRanges, or another plugin gives them)")
        return
    book = Ipam()
    for record in view.records:
        one = record.attachment
        if one.id.network == network.name:
            book.occupy(one.id.network, [each.address.ip for each in one.addresses])
    for ranges in ipam.sets:
        usage = book.usage(network.name, (ranges,))
        name = ", ".join(f"{each.first}-{each.last}" for each in ranges)
        yield fullness(name, usage.taken, usage.total, str(network.path))


def fullness(name: str, taken: int, total: int, path: str) -> Finding:
    """What `taken` of `total` addresses of a set of ranges mean."""
    mend = f"add a range to ipam.ranges in {path}; netplane cni list shows who has them"
    if taken >= total:
        return error(f"no address is left of {total} in {name}", "Pods do not start (code 100)", mend)
    if taken >= _NEARLY * total:
        return warning(f"{taken} of {total} addresses in {name} are taken", "soon Pods do not start", mend)
    return ok(f"{taken} of {total} addresses in {name} are taken")


def attachments(view: View) -> Iterator[Finding]:
    """Whether the journal tells of attachments that are dead, or links exist that it does not know."""
    dead = [
        str(record.attachment.id)
        for record in view.records
        if record.boot != view.boot or (record.attachment.link and record.attachment.link not in view.links)
    ]
    known = {link for record in view.records for link in links_of(record.attachment)}
    orphans = sorted(name for name in view.links if name.startswith(_PREFIXES) and name not in known)
    mends = "a running agent removes it within a minute: netplane agent status"
    if dead:
        yield warning(f"attachments without a link: {_some(dead)}", "their addresses are not given away", mends)
    if orphans:
        removal = "; ".join(f"ip link del {name}" for name in orphans[:_SHOWN])
        why = "a container has an interface that nothing will take away, and its address may be given away again"
        yield warning(f"links without an attachment: {_some(orphans)}", why, f"{mends}; by hand: {removal}")
    if not dead and not orphans:
        yield ok(f"{len(view.records)} attachments, and their links")


def privacy(view: View) -> Iterator[Finding]:
    """Whether only root may write where netplane keeps its state."""
    bad = False
    for path in (view.place.state_dir, view.place.journal, view.place.run_dir):
        if not path.exists():
            continue
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & _OTHERS_WRITE:
            bad = True
            yield error(
                f"{path} is not root's alone (user {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})",
                "who can write there decides about the network of every Pod; the agent refuses it",
                f"chown root:root {path} && chmod 0700 {path}",
            )
    if not bad:
        yield ok("state and sockets are root's alone")


def _decoded(network: NetworkList) -> Finding:
    try:
        config = conflist.checked(network)
    except NetplaneError as wrong:
        return error(str(wrong), "no Pod starts", f"edit it (docs/cni.md), or {_INSTALL}")
    return ok(f"{network.path} is the network of all Pods, {config.mode.value} mode")


def _wrong_with(path: Path) -> str:
    try:
        found = path.stat()
    except OSError as missing:
        return str(missing.strerror)
    if not stat.S_ISREG(found.st_mode):
        return "not a file"
    if not found.st_mode & 0o100:
        return "not executable"
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS_WRITE:
        return "others than root may change it"
    return ""


def _said(reply: Reply) -> str:
    try:
        value = json.loads(reply.stdout)
        return f"{value['msg']} (code {value['code']})" + (f": {value['details']}" if value.get("details") else "")
    except (ValueError, KeyError, TypeError):
        return f"exit code {reply.code}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
