"""A client of containerd's CRI: sandboxes are run, looked at, stopped and removed, as a kubelet does.

gRPC itself is PyPI's grpcio (extra `dev`). The messages are few and small, so there is no compiler and no generated
code: a message is written as `{field number: value}` and read with `fields`. The numbers are those of runtime/v1 in
k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from containerd_image import NAME

from netplane.closing import Closing

SECONDS = 20.0
_PROTOCOLS = {"TCP": 0, "UDP": 1, "SCTP": 2}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Message = Mapping[int, Any]


def encoded(message: Message) -> bytes:
    """Protocol Buffers: an int or bool is a varint; str, bytes and nested messages have a length; a list repeats."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, list | tuple):
        return b"".join(_field(number, each) for each in value)
    if isinstance(value, int):
        return _varint(number << 3 | _VARINT) + _varint(value)
    content = value.encode() if isinstance(value, str) else encoded(value) if isinstance(value, Mapping) else value
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*made, value))


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of every field, in order: int of a varint, bytes of all else."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        size = {_FIXED64: 8, _FIXED32: 4}.get(key & 7, 0)
        if key & 7 == _VARINT:
            value, at = _read_varint(message, at)
            yield key >> 3, value
            continue
        if key & 7 == _BYTES:
            size, at = _read_varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = message[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _all(message: bytes, *path: int) -> list[Any]:
    """Every value at a path of field numbers."""
    values: list[Any] = [message]
    for number in path:
        values = [value for each in values for found, value in fields(each) if found == number]
    return values


def _text(message: bytes, *path: int) -> str:
    return next((each.decode() for each in _all(message, *path)), "")


@dataclass(frozen=True)
class PodSpec:
    """A sandbox to be. `ports` are (protocol, host port, container port, host IP)."""

    name: str
    ports: Sequence[tuple[str, int, int, str]] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cgroup_parent: str = ""
    dns: Sequence[str] = ("10.96.0.10",)

    def message(self) -> Message:
        """PodSandboxConfig."""
        ports = [
            {1: _PROTOCOLS[protocol], 2: inside, 3: outside} | ({4: address} if address else {})
            for protocol, outside, inside, address in self.ports
        ]
        return {
            1: {1: self.name, 2: f"uid-{self.name}", 3: "default"},
            2: self.name,
            4: {1: list(self.dns)},
            5: ports,
            7: [{1: key, 2: value} for key, value in self.annotations.items()],
            8: {1: self.cgroup_parent},
        }


class Cri(Closing):
    """A connection. Every call raises grpc.RpcError with what containerd said, or after SECONDS."""

    def __init__(self, socket: str) -> None:
        import grpc

        # A proxy of the environment is not for sockets of this machine; a socket that will be there in milliseconds
        # need not be waited for in steps of a second.
        pace = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.min_reconnect_backoff_ms", 20)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=[("grpc.enable_http_proxy", 0), *pace])
        grpc.channel_ready_future(self._channel).result(SECONDS)

    def has_image(self) -> bool:
        """Whether the CRI part of containerd has noticed the image that was imported."""
        return bool(_all(self._call("ImageService/ImageStatus", {1: {1: NAME}}), 1))

    def network_said(self) -> str:
        """ "" when it is ready to make sandboxes with a network, otherwise why not (condition NetworkReady)."""
        for condition in _all(self._call("RuntimeService/Status", {}), 1, 1):
            if _text(condition, 1) == "NetworkReady":
                return "" if _all(condition, 2) == [1] else _text(condition, 4)
        return "no condition NetworkReady"

    def run(self, spec: PodSpec) -> str:
        """RunPodSandbox; its id."""
        return _text(self._call("RuntimeService/RunPodSandbox", {1: spec.message()}), 1)

    def stop(self, sandbox: str) -> None:
        """StopPodSandbox."""
        self._call("RuntimeService/StopPodSandbox", {1: sandbox})

    def remove(self, sandbox: str) -> None:
        """RemovePodSandbox."""
        self._call("RuntimeService/RemovePodSandbox", {1: sandbox})

    def addresses(self, sandbox: str) -> list[str]:
        """Of a sandbox: what PodSandboxStatus says, and so what the kubelet writes into the Pod's status."""
        (network,) = _all(self._call("RuntimeService/PodSandboxStatus", {1: sandbox}), 1, 5)
        return [_text(network, 1), *(each.decode() for each in _all(network, 2, 1))]

    def sandboxes(self) -> list[str]:
        """ListPodSandbox: the ids of all there are."""
        return [_text(each, 1) for each in _all(self._call("RuntimeService/ListPodSandbox", {}), 1)]

    def close(self) -> None:
        self._channel.close()

    def _call(self, method: str, request: Message) -> bytes:
        return self._channel.unary_unary(f"/runtime.v1.{method}")(encoded(request), timeout=SECONDS)
