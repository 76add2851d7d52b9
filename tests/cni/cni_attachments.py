"""Attachments in few words."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from typing import Any

from cni.attachment import LINK_PREFIXES, Attachment, AttachmentId, NetnsId, PodAddress, link_name
from cni.config import Mode

CLUSTER = (ip_network("10.244.0.0/16"), ip_network("fd00:244::/32"))


def attachment(number: int = 5, *addresses: str, **changes: Any) -> Attachment:
    """Container `c5` of network `net`: on a bridge, masqueraded but to CLUSTER, 10.244.1.5/16 if nothing is said."""
    mode = changes.pop("mode", Mode.BRIDGE)
    id_ = AttachmentId("net", f"c{number}", "eth0")
    link = link_name(mode, id_) if mode in LINK_PREFIXES else ""
    own = addresses or (f"10.244.{1 + (number >> 8)}.{number & 255}/16",)
    values = {"masquerade": True, "masquerade_not_to": CLUSTER, "link": link, **changes}
    return Attachment(
        id_, mode, "", NetnsId(1, number), addresses=tuple(PodAddress(ip_interface(each)) for each in own), **values
    )
