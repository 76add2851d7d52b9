"""Options in words -> Settings."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from netplane.errors import InputError
from netplane.plan.settings import Bridge, InterfacePrefix, NodePortScope, PodRange, Settings
from netplane.sources.options import settings_of

FOUR, SIX = ip_network("10.0.0.0/16"), ip_network("fd00::/56")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, Settings()),
        ({"local": "pod-range"}, Settings(local=PodRange())),
        ({"local": "pod-range=10.0.0.0/16,fd00::/56"}, Settings(local=PodRange((FOUR, SIX)))),
        ({"local": "bridge=cni0"}, Settings(local=Bridge("cni0"))),
        ({"local": "interface-prefix=veth"}, Settings(local=InterfacePrefix("veth"))),
        ({"masquerade-all": True, "drop-invalid": "false"}, Settings(masquerade_all=True, drop_invalid=False)),
        ({"node-ports": "all"}, Settings(node_ports=NodePortScope.ALL)),
        ({"node-ports": "primary"}, Settings(node_ports=NodePortScope.PRIMARY)),
        ({"node-ports": "10.0.0.0/16, fd00::/56"}, Settings(node_ports=(FOUR, SIX))),
        ({"node-ports": ["10.0.0.0/16"]}, Settings(node_ports=(FOUR,))),
        ({"service-ranges": ["10.0.0.0/16", "fd00::/56"]}, Settings(service_ranges=(FOUR, SIX))),
        ({"proxy-name": "mine"}, Settings(proxy_name="mine")),
        ({"proxy-name": ""}, Settings()),
    ],
)
def test_words_become_settings(options, settings):
    assert settings_of(options) == settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lokal": "bridge=cni0"}, "option 'lokal' is unknown; there is drop-invalid, local, masquerade-all"),
        ({"local": "bridge"}, "local: 'bridge' is not known; write pod-range"),
        ({"local": "bridge="}, "local detection by bridge: '' is not an interface name"),
        ({"local": "bridge=a/b"}, "local detection by bridge: 'a/b' is not an interface name"),
        ({"local": "pod-range="}, "local[0]: '' is not a network"),
        ({"local": "pod-range=10.0.0.0"}, "local[0]: '10.0.0.0' is not a network; write it like 10.0.0.0/8"),
        ({"local": None}, "local: 'None' is not known"),
        ({"masquerade-all": "yes"}, "masquerade-all: 'yes' is not known; write true or false"),
        ({"masquerade-all": 1}, "masquerade-all: '1' is not known; write true or false"),
        ({"node-ports": "some"}, "node-ports[0]: 'some' is not a network"),
        ({"node-ports": "some"}, "or one of primary, all"),
        ({"node-ports": []}, "node-ports: '[]' is no list of networks"),
        ({"node-ports": ["primary"]}, "node-ports[0]: 'primary' is not a network"),
        ({"service-ranges": 5}, "service-ranges: '5' is no list of networks; write CIDR,..."),
        ({"service-ranges": ["10.0.0.0/16", "x"]}, "service-ranges[1]: 'x' is not a network"),
        ({"proxy-name": 5}, "proxy-name: '5' is no string"),
        ({"proxy-name": "a b"}, "proxy-name: 'a b' is not a valid name"),
        ({"local": "\u202e" + "x" * 5000}, "local: '\\u202exxx"),
    ],
)
def test_a_bad_option_is_named_with_what_it_takes(options, said):
    with pytest.raises(InputError) as caught:
        settings_of(options)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300
