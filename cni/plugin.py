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
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache

from cni import elsewhere, environment, host_local, result_json, versions
from cni.attachment import Attachment, AttachmentId, PodAddress
from cni.config import IpamOptions, Mode, NetworkConfig, RangeSet
from cni.decode import network_config, version_of
from cni.failure import Code, Failure
from cni.known_network import NodeNetwork
from cni.node import NodeAttachments, gives_addresses
from cni.plan import Given, Place, attachment_id, chained, plan, result_of
from cni.ranges import range_of
from cni.request import Command, Invocation, Reply, Request
from cni.resolv_conf import dns_of
from cni.result import Result
from cni.sandbox import Sandbox, leads_to
from cni.store import State
from netplane.errors import NetplaneError

log = logging.getLogger("netplane.cni")

_PREPARED = 1000
"""Requests that are known and not done: more than a server takes. A client that is gone leaves one behind."""
_SAID = 2000


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
        self.network, self._sysctls = network, tuple(sysctls)
        self._prepared: dict[int, _Job | Failure] = {}
        self._imported: set[tuple[str, str]] = set()
        self._importing = threading.Lock()
        self.before_add: Callable[[], None] = lambda: None
        """Called before every ADD: what was asked earlier, and not done yet, comes first."""
        self.behind: Callable[[], bool] = lambda: False
        """Whether `before_add` will have something to do."""

    # --- one request ------------------------------------------------------------------------------------------------

    def quick(self, request: Request) -> bool:
        """Whether `handle` will not have to wait for anything but the kernel."""
        while len(self._prepared) > _PREPARED:
            self._prepared.pop(next(iter(self._prepared)), None)
        job = self._prepared[id(request)] = self._prepare(request)
        if isinstance(job, Failure):
            return True
        match job.invocation.command:
            case Command.ADD:
                waits = job.delegated or job.config.duplicate_address_detection or self._import_due(job)
                return not (waits or self.node.pending or self.behind())
            case Command.DEL:
                record = self.node.store.records.get(job.id)
                delegated = record.attachment.delegate != "" if record else job.delegated
                ipam = job.config.ipam
                imported = record is None and ipam is not None and ipam.import_from != ""
                return not (delegated or imported or job.config.synchronous_delete)
            case Command.STATUS:
                return not (job.delegated or self._import_due(job))
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
            return _Job(request, invocation, _decoded(request.stdin, invocation, self._sysctls))
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
        if job.config.previous is not None:
            given = chained(job.config.previous, job.invocation.ifname)
            return self.node.attach(job.id, sandbox, lambda: self._planned(job, given, sandbox))
        if job.delegated:
            return self._attach_delegated(job, sandbox)
        if self._import_due(job) and job.config.ipam is not None:
            self._import(job.config.name, job.config.ipam)
        return self.node.attach(job.id, sandbox, lambda: self._planned(job, self._given(job), sandbox))

    def _attach_delegated(self, job: _Job, sandbox: Sandbox) -> Attachment:
        """With addresses of the plugin that `ipam.type` names. What we do not attach is given back to it."""
        self._end_before(job)
        with self.node.lock:
            begun = self._planned(job, Given(), sandbox)
        try:
            with self.node.asking_for(begun):
                given = elsewhere.given(job.config.raw, job.invocation)
                return self.node.attach(job.id, sandbox, lambda: self._planned(job, given, sandbox))
        except NetplaneError:
            with suppress(NetplaneError):  # then it is owed, and the keeper asks again
                self._end_before(job)
            raise

    def _end_before(self, job: _Job) -> None:
        """Finish what is left of an attachment that was doomed; what is attached is left alone."""
        record = self.node.store.records.get(job.id)
        if record is not None and record.state is not State.ATTACHED:
            self.remove([job.id])

    def _planned(self, job: _Job, given: Given, sandbox: Sandbox) -> Attachment:
        config = job.config
        mtu = config.mtu or self.network().mtu or self.node.mtu(self.network().peers)
        seen = config.previous is not None and leads_to(job.invocation.netns, sandbox.id)
        attachment = plan(config, job.invocation, given, Place(sandbox.id, mtu, seen))
        return replace(attachment, delegate_config=json.dumps(config.raw)) if attachment.delegate else attachment

    def _loopback(self, job: _Job, fd: int) -> Result:
        with self.node.lock:
            self.node.wiring.loopback_up(fd)
        return job.config.previous or Result.loopback(job.invocation.netns)

    def _given(self, job: _Job) -> Given:
        """Our own addresses for a request. With the lock held."""
        config = job.config
        if config.ipam is None or not config.interface:
            return Given()
        sets, dns = self._sets(config.ipam), dns_of(config.ipam.resolv_conf)
        taken = self.node.ipam.take(config.name, sets, config.ipam.requested, time.monotonic(), config.ipam.quarantine)
        return Given(taken, config.ipam.routes, dns)

    def _sets(self, ipam: IpamOptions) -> tuple[RangeSet, ...]:
        if not ipam.node_ranges:
            return ipam.sets
        ranges = self.network().ranges
        if not ranges:
            said = "this node has no pod range yet"
            raise Failure(Code.TRY_AGAIN_LATER, said, "its Node object must have spec.podCIDRs (ipam.nodeRanges)")
        return (*ipam.sets, *((range_of(each),) for each in ranges))

    def _import_due(self, job: _Job) -> bool:
        """Whether a folder of host-local has to be read, which may have to wait for its lock."""
        ipam = job.config.ipam
        return ipam is not None and ipam.import_from != "" and (job.config.name, ipam.import_from) not in self._imported

    def _import(self, network: str, ipam: IpamOptions) -> None:
        """Once: the addresses of an existing host-local directory count as taken. Waits for its lock, without ours."""
        with self._importing:
            if not ipam.import_from or (network, ipam.import_from) in self._imported:
                return
            found = host_local.read(ipam.import_from)
            for problem in found.problems:
                log.warning("not imported", extra={"what": str(problem)})
            with self.node.lock:
                self.node.ipam.occupy(network, found.addresses)
                for index, address in found.last.items():
                    self.node.ipam.continue_after(network, index, address)
            self._imported.add((network, ipam.import_from))

    # --- DEL --------------------------------------------------------------------------------------------------------

    def _del(self, job: _Job) -> None:
        config = job.config
        if config.mode is Mode.LOOPBACK:
            return
        attachment = self.node.detach(job.id)
        if attachment is None:
            self._forgotten(job)
            if job.delegated:
                elsewhere.ask(config.raw, job.invocation, Command.DEL)
        elif config.synchronous_delete or attachment.delegate:
            self.remove([job.id])

    def remove(self, ids: Sequence[AttachmentId]) -> None:
        """Detach, and wait until all links are gone and all addresses given back. Raises Failure, after all was tried.

        Links that go together are waited for once.
        """
        failures: list[NetplaneError] = []
        for step in (self.node.detach, self._wait_gone, self.give_back):
            for id_ in ids:
                try:
                    step(id_)
                except NetplaneError as error:
                    failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        if failures:
            said = "; ".join(dict.fromkeys(map(str, failures)))
            raise Failure(Code.INTERNAL, f"{len(failures)} attachments could not be removed", said[:_SAID])

    def _wait_gone(self, id_: AttachmentId) -> None:
        self.node.wait_gone([id_])

    def give_back(self, id_: AttachmentId) -> None:
        """Tell the plugin that gave the addresses of a doomed attachment that they are free, if it was not told yet."""
        with self.node.giving_back(id_) as attachment:
            if attachment is not None:
                elsewhere.give_back(attachment)

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
            self.node.wiring.check(_as_told(attachment, job.config.previous), fd)
            self.node.rules.check(attachment)
        if attachment.delegate:
            elsewhere.ask(job.config.raw, job.invocation, Command.CHECK)

    def _gc(self, job: _Job) -> None:
        valid = job.config.valid_attachments
        if valid is None:
            raise Failure(Code.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
        with self.node.lock:
            known = [each for each in self.node.store.records if each.network == job.config.name]
        try:
            self.remove([each for each in known if (each.container, each.ifname) not in valid])
        finally:
            if job.delegated:
                elsewhere.ask(job.config.raw, job.invocation, Command.GC)

    def _status(self, job: _Job) -> None:
        config = job.config
        if config.mode is Mode.LOOPBACK or config.ipam is None:
            return
        if config.raw.get("ipam") is None and not self.network().ranges:
            return  # chained, most likely: that is not said here, and a node must not be NotReady for it
        if job.delegated:
            elsewhere.ask(config.raw, job.invocation, Command.STATUS)
            return
        try:
            self._import(config.name, config.ipam)
            with self.node.lock:
                if owed := self.node.store.owed():
                    raise Failure(
                        Code.NOT_AVAILABLE, "the journal cannot be written", f"{owed} steps wait for the disk"
                    )
                for each in self._sets(config.ipam):
                    usage = self.node.ipam.usage(config.name, (each,))
                    if usage.taken >= usage.total:
                        said = f"no address is left in {each[0].first}-{each[-1].last}"
                        raise Failure(Code.NOT_AVAILABLE, said, f"{usage.taken} of {usage.total} are taken")
        except Failure as failure:
            raise Failure(Code.NOT_AVAILABLE, failure.msg, failure.details) from failure


def _decoded(stdin: bytes, invocation: Invocation, allowed: tuple[re.Pattern[str], ...]) -> NetworkConfig:
    if invocation.command is not Command.ADD:
        return network_config(stdin, invocation, allowed)
    asked = tuple((key, invocation.arguments[key]) for key in ("IP", "MAC") if key in invocation.arguments)
    return _decoded_once(stdin, invocation.ifname, asked, allowed)


# Most containers ask for nothing of their own: a runtime sends the same bytes for each.
@lru_cache(maxsize=64)
def _decoded_once(
    stdin: bytes, ifname: str, asked: tuple[tuple[str, str], ...], allowed: tuple[re.Pattern[str], ...]
) -> NetworkConfig:
    """ADD's configuration, from all it depends on."""
    return network_config(stdin, Invocation(Command.ADD, ifname=ifname, arguments=dict(asked)), allowed)


def refusal(request: Request, failure: Failure) -> Reply:
    """The answer to a request that failed: the specification's error, on standard output."""
    said = {"command": request.environment.get("CNI_COMMAND", "")[:80], "why": str(failure)[:_SAID]}
    log.warning("refused", extra=said | {"container": request.environment.get("CNI_CONTAINERID", "")[:80]})
    return Reply(1, json.dumps(failure.value(version_of(request.stdin))).encode() + b"\n")


def _namespace(job: _Job) -> int:
    """The descriptor of the container's namespace."""
    request = job.request
    if request.netns_fd < 0:
        why = os.strerror(request.netns_errno) if request.netns_errno else "it was not opened"
        raise Failure(Code.INVALID_NETNS, f"cannot open CNI_NETNS {job.invocation.netns}: {why}")
    return request.netns_fd


def _overridden(variables: Mapping[str, str]) -> bool:
    return variables.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true")


def _as_told(attachment: Attachment, previous: Result) -> Attachment:
    """With the MAC the runtime was told in the end: a plugin behind us may have set another (`tuning`)."""
    inside = (each for each in previous.interfaces if each.name == attachment.id.ifname and each.sandbox)
    told = next((each.mac for each in inside if each.mac), "")
    with suppress(ValueError):
        mac = bytes.fromhex(told.replace(":", ""))
        return replace(attachment, mac=mac) if mac and attachment.mac else attachment
    return attachment


def _same_addresses(attachment: Attachment, previous: Result) -> None:
    """What the runtime was told, and what was journaled then, agree."""
    ours: set[PodAddress] = set(attachment.addresses)
    told = {each.address for each in chained(previous, attachment.id.ifname).addresses}
    if gives_addresses(attachment) and not {each.address for each in ours} <= told:
        known = ", ".join(sorted(str(each.address) for each in ours))
        raise Failure(Code.DIFFERS, f"prevResult lacks an address of {attachment.id.ifname}: it has {known}")
