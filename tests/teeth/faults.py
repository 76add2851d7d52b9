"""Every planted fault, by what it does."""

from teeth.fault import Fault
from teeth.faults_of_cni import CNI
from teeth.faults_of_iptables import IPTABLES
from teeth.faults_of_nftables import NFTABLES
from teeth.faults_of_the_network import NETWORK
from teeth.faults_of_the_network_plan import NETWORK_PLAN
from teeth.faults_of_the_node import NODE
from teeth.faults_of_the_plan import PLAN

FAULTS: dict[str, Fault] = {**PLAN, **NETWORK_PLAN, **NETWORK, **NFTABLES, **IPTABLES, **NODE, **CNI}
