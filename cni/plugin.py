"""The verbs: what ADD, DEL, CHECK, GC and STATUS mean (CNI specification 1.1.0, section 2).

A request is prepared once, when it arrives, and then done: at once if it only needs the kernel, in a thread of its own
if it has to wait for another plugin or for the end of what was there before. Whatever happens, the runtime gets the
answer of the specification, never a traceback.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cni import delegate, environment, host_local, result_json, versions
from cni.attachment import Attachment, AttachmentId, PodAddress
from cni.config import IpamOptions, Mode, NetworkConfig, RangeSet
from cni.decode import network_config, version_of
from cni.decode_ipam import resolv_conf
from cni.failure import Code, Failure
from cni.node import NodeAttachments, gives_addresses
from cni.plan import Given, Place, attachment_id, chained, given_by, plan, result_of
from cni.ranges import range_of
from cni.request import Command, Invocation, Reply, Request
from cni.result import Dns, Result
from cni.sandbox import Sandbox
from cni.store import State
from netplane.errors import NetplaneError
from netplane.model.address import IPAddress, IPNetwork

log = logging.getLogger("netplane.cni")


@dataclass(frozen=True, slots=True)
class NodeNetwork:
    """What the cluster says of this node: its pod ranges, and the addresses of the other nodes."""

    ranges: tuple[IPNetwork, ...] = ()
    peers: tuple[IPAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class _Job:
    """A request, decoded."""

    request: Request
    invocation: Invocation
    config: NetworkConfig

    @property
    def id(self) -> AttachmentId:
        return attachment_id(self.config, self.invocation)

    @property
    def delegated(self) -> bool:
        """Whether another plugin has to be asked for addresses."""
        ipam = self.config.ipam
        return ipam is not None and ipam.delegated and self.config.mode is not Mode.LOOPBACK


class Plugin:
    """Serves requests for the attachments of one node. `network` is asked whenever it matters."""

    def __init__(
        self, node: NodeAttachments, network: Callable[[], NodeNetwork], sysctls: Sequence[re.Pattern[str]]
    ) -> None:
        self.node = node
        self._network, self._sysctls = network, tuple(sysctls)
        self._prepared: dict[int, _Job | Failure] = {}
        self._imported: set[tuple[str, str]] = set()
        self.before_add: Callable[[], None] = lambda: None
        """Called before every ADD: what was asked earlier, and not done yet, comes first."""

    # --- one request ------------------------------------------------------------------------------------------------

    def quick(self, request: Request) -> bool:
        """Whether `handle` will not have to wait for anything but the kernel."""
        job = self._prepared[id(request)] = self._prepare(request)
        if isinstance(job, Failure):
            return True
        match job.invocation.command:
            case Command.ADD:
                return not job.delegated and not self.node.pending
            case Command.DEL:
                record = self.node.store.records.get(job.id)
                delegated = record.attachment.delegate != "" if record else job.delegated
                return not delegated and not job.config.synchronous_delete
            case _:
                return False

    def handle(self, request: Request) -> Reply:
        """The answer to a request. Never raises."""
        job = self._prepared.pop(id(request), None) or self._prepare(request)
        try:
            if isinstance(job, Failure):
                raise job
            return Reply(0, self._do(job))
        except Failure as failure:
            return refusal(request, failure)
        except NetplaneError as error:
            return refusal(request, Failure(Code.INTERNAL, str(error)))
        except Exception as error:
            log.exception("a request failed")
            return refusal(request, Failure(Code.INTERNAL, f"netplane failed: {error!r}; its log says where"))

    def _prepare(self, request: Request) -> _Job | Failure:
        try:
            invocation = environment.invocation(request.environment)
            if invocation.command is Command.VERSION:
                return _Job(request, invocation, NetworkConfig("", "", ""))
            return _Job(request, invocation, network_config(request.stdin, invocation, self._sysctls))
        except Failure as failure:
            return failure

    def _do(self, job: _Job) -> bytes:
        match job.invocation.command:
            case Command.ADD:
                result = self._add(job)
                return json.dumps(result_json.encode(result, job.config.version), separators=(",", ":")).encode()
            case Command.DEL:
                self._del(job)
            case Command.CHECK:
                self._check(job)
            case Command.GC:
                self._gc(job)
            case Command.STATUS:
                self._status(job)
            case Command.VERSION:
                return versions.answer()
        return b""

    # --- ADD --------------------------------------------------------------------------------------------------------

    def _add(self, job: _Job) -> Result:
        self.before_add()
        fd = _namespace(job)
        config = job.config
        if config.mode is Mode.LOOPBACK:
            return self._loopback(job, fd)
        with Sandbox(fd) as sandbox:
            attachment = self._attach(job, sandbox)
        if config.previous is not None:
            return config.previous
        return result_of(attachment, self.node.wiring.bridge_mac(attachment))

    def _attach(self, job: _Job, sandbox: Sandbox) -> Attachment:
        if sandbox.id == self.node.own_netns and not _overridden(job.request.environment):
            said = f"CNI_NETNS {job.invocation.netns} is the host's own namespace"
            raise Failure(Code.INVALID_NETNS, said, "set CNI_NETNS_OVERRIDE=1 if that is meant")
        given = self._delegated(job)

        def make() -> Attachment:
            place = Place(sandbox.id, job.config.mtu or self.node.mtu(self._network().peers))
            return self._planned(job, self._given(job) if given is None else given, place)

        try:
            return self.node.attach(job.id, sandbox, make)
        except BaseException:
            if job.delegated and job.config.previous is None:
                self._delegate(job.config.raw, job.invocation, Command.DEL)
            raise

    def _planned(self, job: _Job, given: Given, place: Place) -> Attachment:
        attachment = plan(job.config, job.invocation, given, place)
        return replace(attachment, delegate_config=json.dumps(job.config.raw)) if attachment.delegate else attachment

    def _loopback(self, job: _Job, fd: int) -> Result:
        with self.node.lock:
            self.node.wiring.loopback_up(fd)
        return job.config.previous or Result.loopback(job.invocation.netns)

    def _given(self, job: _Job) -> Given:
        """Our own addresses for a request. With the lock held."""
        config = job.config
        if config.ipam is None or not config.interface:
            return Given()
        sets = self._sets(config.ipam)
        self._import(config.name, config.ipam)
        taken = self.node.ipam.take(config.name, sets, config.ipam.requested, time.monotonic(), config.ipam.quarantine)
        return Given(taken, config.ipam.routes, _dns_of(config.ipam.resolv_conf))

    def _sets(self, ipam: IpamOptions) -> tuple[RangeSet, ...]:
        if not ipam.node_ranges:
            return ipam.sets
        ranges = self._network().ranges
        if not ranges:
            said = "this node has no pod range yet"
            raise Failure(Code.TRY_AGAIN_LATER, said, "its Node object must have spec.podCIDRs (ipam.nodeRanges)")
        return (*ipam.sets, *((range_of(each),) for each in ranges))

    def _import(self, network: str, ipam: IpamOptions) -> None:
        """Once: the addresses of an existing host-local directory count as taken."""
        if not ipam.import_from or (network, ipam.import_from) in self._imported:
            return
        found = host_local.read(ipam.import_from)
        for problem in found.problems:
            log.warning("not imported", extra={"what": str(problem)})
        self.node.ipam.occupy(network, found.addresses)
        for index, address in found.last.items():
            self.node.ipam.continue_after(network, index, address)
        self._imported.add((network, ipam.import_from))

    # --- other plugins' addresses -----------------------------------------------------------------------------------

    def _delegated(self, job: _Job) -> Given | None:
        """What another plugin gives: one before us in the chain, or the one that `ipam.type` names."""
        config = job.config
        if config.previous is not None:
            return chained(config.previous, job.invocation.ifname)
        if not job.delegated:
            return None
        result = self._delegate(config.raw, job.invocation, Command.ADD)
        if result is None or not result.addresses:
            raise Failure(Code.INVALID_CONFIG, f"IPAM plugin {config.ipam.type if config.ipam else ''} gave no address")
        return given_by(result)

    def _delegate(self, raw: Mapping[str, object], invocation: Invocation, command: Command) -> Result | None:
        ipam = raw["ipam"]
        type_ = str(ipam["type"]) if isinstance(ipam, Mapping) else ""
        return delegate.run(type_, command, invocation, raw)

    # --- DEL --------------------------------------------------------------------------------------------------------

    def _del(self, job: _Job) -> None:
        config = job.config
        if config.mode is Mode.LOOPBACK:
            return
        attachment = self.node.detach(job.id)
        if attachment is None:
            self._forgotten(job)
        elif config.synchronous_delete or attachment.delegate:
            self.node.wait_gone([job.id])
        if attachment is None and job.delegated:
            self._delegate(config.raw, job.invocation, Command.DEL)
        elif attachment is not None:
            self.give_back_elsewhere(attachment)

    def give_back_elsewhere(self, attachment: Attachment) -> None:
        """Tell the plugin that gave the addresses of an attachment that they are free."""
        if attachment.delegate:
            id_ = attachment.id
            invocation = Invocation(Command.DEL, id_.container, attachment.netns, id_.ifname, {}, attachment.cni_path)
            self._delegate(json.loads(attachment.delegate_config), invocation, Command.DEL)

    def _forgotten(self, job: _Job) -> None:
        """DEL of what we know nothing of: a link of its name, and what host-local once gave it."""
        self.node.remove_stray(job.id)
        ipam = job.config.ipam
        if ipam is not None and ipam.import_from:
            freed = host_local.release(ipam.import_from, job.invocation.container, job.invocation.ifname)
            with self.node.lock:
                self.node.ipam.give_back(job.config.name, freed, time.monotonic())

    # --- CHECK, GC, STATUS ------------------------------------------------------------------------------------------

    def _check(self, job: _Job) -> None:
        fd = _namespace(job)
        if job.config.mode is Mode.LOOPBACK:
            with self.node.lock:
                self.node.wiring.loopback_check(fd)
            return
        if job.config.previous is None:
            raise Failure(Code.INVALID_CONFIG, "CHECK needs prevResult")
        with self.node.lock:
            record = self.node.store.records.get(job.id)
            if record is None or record.state is not State.ATTACHED:
                raise Failure(Code.UNKNOWN_CONTAINER, f"container {job.id.container} has no {job.id.ifname} here")
            attachment = record.attachment
            _same_addresses(attachment, job.config.previous)
            self.node.wiring.check(attachment, fd)
            self.node.rules.check(attachment)
        if attachment.delegate:
            self._delegate(job.config.raw, job.invocation, Command.CHECK)

    def _gc(self, job: _Job) -> None:
        valid = job.config.valid_attachments
        if valid is None:
            raise Failure(Code.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
        with self.node.lock:
            known = [each for each in self.node.store.records if each.network == job.config.name]
        failures = []
        for id_ in known:
            if (id_.container, id_.ifname) not in valid:
                try:
                    self.remove(id_)
                except NetplaneError as error:
                    failures.append(f"{id_}: {error}")
        if job.delegated:
            try:
                self._delegate(job.config.raw, job.invocation, Command.GC)
            except Failure as failure:
                failures.append(str(failure))
        if failures:
            raise Failure(Code.INTERNAL, f"{len(failures)} attachments could not be removed", "; ".join(failures))

    def remove(self, id_: AttachmentId) -> None:
        """Detach, and wait until its links are gone and its address is given back."""
        attachment = self.node.detach(id_)
        if attachment is not None:
            self.node.wait_gone([id_])
            self.give_back_elsewhere(attachment)

    def _status(self, job: _Job) -> None:
        config = job.config
        if config.mode is Mode.LOOPBACK or config.ipam is None:
            return
        if job.delegated:
            self._delegate(config.raw, job.invocation, Command.STATUS)
            return
        try:
            with self.node.lock:
                self._import(config.name, config.ipam)
                for each in self._sets(config.ipam):
                    usage = self.node.ipam.usage(config.name, (each,))
                    if usage.taken >= usage.total:
                        said = f"no address is left in {each[0].first}-{each[-1].last}"
                        raise Failure(Code.NOT_AVAILABLE, said, f"{usage.taken} of {usage.total} are taken")
        except Failure as failure:
            raise Failure(Code.NOT_AVAILABLE, failure.msg, failure.details) from failure


def refusal(request: Request, failure: Failure) -> Reply:
    """The answer to a request that failed: the specification's error, on standard output."""
    said = {"command": request.environment.get("CNI_COMMAND", ""), "why": str(failure)}
    log.warning("refused", extra=said | {"container": request.environment.get("CNI_CONTAINERID", "")[:80]})
    return Reply(1, json.dumps(failure.value(version_of(request.stdin))).encode() + b"\n")


def _namespace(job: _Job) -> int:
    """The descriptor of the container's namespace."""
    request = job.request
    if request.netns_fd < 0:
        why = os.strerror(request.netns_errno) if request.netns_errno else "it was not opened"
        raise Failure(Code.INVALID_NETNS, f"cannot open CNI_NETNS {job.invocation.netns}: {why}")
    return request.netns_fd


def _dns_of(path: str) -> Dns:
    """What a file like resolv.conf says, as host-local passes it on; nothing if none is named."""
    if not path:
        return Dns()
    try:
        return resolv_conf(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Failure(Code.INVALID_CONFIG, f"ipam.resolvConf: cannot read {path}", str(error)) from error


def _overridden(variables: Mapping[str, str]) -> bool:
    return variables.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")


def _same_addresses(attachment: Attachment, previous: Result) -> None:
    """What the runtime was told, and what was journaled then, agree."""
    ours: set[PodAddress] = set(attachment.addresses)
    told = {each.address for each in chained(previous, attachment.id.ifname).addresses}
    if gives_addresses(attachment) and not {each.address for each in ours} <= told:
        known = ", ".join(sorted(str(each.address) for each in ours))
        raise Failure(Code.DIFFERS, f"prevResult lacks an address of {attachment.id.ifname}: it has {known}")
