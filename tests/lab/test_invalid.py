"""Packets that connection tracking cannot place: an endpoint's never reach a client untranslated (decision 0006)."""

import shutil
from ipaddress import ip_address
from pathlib import Path

import pytest

from netplane.backends.registry import BACKENDS
from netplane.kernel import sysctls
from netplane.lab import packets
from netplane.lab.capture import tap
from netplane.lab.cases import load_case
from netplane.lab.packets import Flow
from netplane.lab.run import in_process, standing
from netplane.model.address import Family
from netplane.model.pod import PodId

# scapy's own modules warn while they are imported
pytestmark = [pytest.mark.lab, pytest.mark.kernel, pytest.mark.filterwarnings("ignore::DeprecationWarning:scapy")]

CASE = Path(__file__).parent.parent / "cases" / "cluster-ip"
CLIENT = {Family.IPV4: ip_address("10.244.1.9"), Family.IPV6: ip_address("fd00:10:244:1::9")}
ENDPOINT = {Family.IPV4: ip_address("10.244.2.5"), Family.IPV6: ip_address("fd00:10:244:2::5")}
SERVICE_PORT, OTHER_PORT = 8080, 9999


def strays_that_arrive(case, backend, family):
    """The source ports from which an ACK of no connection reaches the client's Pod through n1, sent last: 7."""

    def from_endpoint(lab):
        client, endpoint = lab.pods[PodId("shop", "client")], lab.pods[PodId("shop", "web-2")]
        lab.nodes["n1"].run(lambda: sysctls.write({"net/netfilter/nf_conntrack_tcp_loose": 0}))
        with tap(client, "eth0") as there:
            flows = [Flow(ENDPOINT[family], port, CLIENT[family], 40000) for port in (SERVICE_PORT, OTHER_PORT)]
            last = packets.udp(Flow(ENDPOINT[family], 7, CLIENT[family], 40000))
            packets.send(endpoint, [*(packets.tcp(flow, "A", acknowledge=7) for flow in flows), last])
            seen = []
            while 7 not in seen:
                seen += [frame.ports[0] for frame in packets.wait_for(there, lambda frame: bool(frame.ports))]
        return [port for port in seen if port in {SERVICE_PORT, OTHER_PORT}]

    made = load_case(case)
    with standing(made) as lab, in_process(lab, made, backend):
        return from_endpoint(lab)


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("family", list(Family), ids=str)
def test_only_the_endpoint_port_s_packets_are_dropped(family, backend):
    assert strays_that_arrive(CASE, backend, family) == [OTHER_PORT]


@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("family", list(Family), ids=str)
def test_all_pass_if_the_operator_says_so(family, backend, tmp_path):
    case = Path(shutil.copytree(CASE, tmp_path / "case"))
    (case / "settings.yaml").write_text("drop-invalid: false\n")
    assert strays_that_arrive(case, backend, family) == [SERVICE_PORT, OTHER_PORT]
