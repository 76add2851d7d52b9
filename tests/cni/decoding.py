"""Requests as a runtime would send them, decoded or refused: shared by the tests of `cni.decode`."""

from __future__ import annotations

import json
import re

import conformance
import pytest

from cni.config import NetworkConfig
from cni.decode import network_config
from cni.environment import invocation
from cni.failure import Code, Failure
from cni.request import Invocation

ENVIRONMENT = {
    "CNI_CONTAINERID": "some-container-id",
    "CNI_NETNS": "/some/netns/path",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/some/cni/path",
}
LEAST = {"cniVersion": "1.1.0", "name": "pods", "type": "netplane"}
PREVIOUS = {
    "interfaces": [{"name": "host"}, {"name": "eth0", "sandbox": "netns"}],
    "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}],
}
ANY_NET = (re.compile("net/.*"),)


def asked(command: str = "ADD", cni_args: str = "") -> Invocation:
    return invocation({"CNI_COMMAND": command, "CNI_ARGS": cni_args, **ENVIRONMENT})


def decoded(command: str = "ADD", cni_args: str = "", allowed=ANY_NET, **options) -> NetworkConfig:
    return network_config(json.dumps(LEAST | options).encode(), asked(command, cni_args), allowed)


def refused(command: str = "ADD", cni_args: str = "", allowed=ANY_NET, code=Code.INVALID_CONFIG, **options) -> str:
    with pytest.raises(Failure) as raised:
        decoded(command, cni_args, allowed, **options)
    assert raised.value.code is code
    assert conformance.of_error(raised.value.value("1.1.0")) == []
    return raised.value.msg


def refused_bytes(stdin: bytes, command: str = "ADD") -> Failure:
    with pytest.raises(Failure) as raised:
        network_config(stdin, asked(command), ())
    return raised.value
