"""Which kernel parameters a configuration may set inside a container.

As the reference plugin `tuning` has it: a file of regular expressions, one a line. Without the file those count that
change nothing outside of the container's own network namespace and that Kubernetes or runtimes set themselves.
"""

from __future__ import annotations

import re
from pathlib import Path

from netplane.errors import InputError

ALLOW_LIST = Path("/etc/cni/tuning/allowlist.conf")
"""The reference plugin's file."""

_DEFAULTS = (
    r"net/ipv[46]/conf/(IFNAME|all|default)/"
    r"(accept_ra|accept_redirects|arp_announce|arp_filter|arp_ignore|arp_notify|ndisc_notify|rp_filter|send_redirects)",
    r"net/ipv4/(ip_local_port_range|ip_local_reserved_ports|ip_unprivileged_port_start|ping_group_range)",
    r"net/ipv4/tcp_(fin_timeout|keepalive_(intvl|probes|time)|rmem|wmem|syncookies|mtu_probing|slow_start_after_idle)",
    r"net/ipv[46]/neigh/IFNAME/(base_reachable_time_ms|gc_stale_time|retrans_time_ms)",
    r"net/ipv6/conf/(IFNAME|all|default)/(disable_ipv6|use_tempaddr|autoconf)",
    r"net/core/somaxconn",
)


def allowed(path: Path = ALLOW_LIST) -> tuple[re.Pattern[str], ...]:
    """What a parameter's name, `net/ipv4/...`, must match entirely. Raises InputError for a bad line of the file."""
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        return tuple(map(re.compile, _DEFAULTS))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    patterns = []
    for number, line in enumerate(lines, 1):
        try:
            patterns.append(re.compile(_anchored(line.strip())))
        except re.error as error:
            raise InputError(f"{path}, line {number}: {line.strip()!r} is no regular expression: {error}") from error
    return tuple(pattern for pattern in patterns if pattern.pattern)


def _anchored(line: str) -> str:
    """The reference plugin's expressions may match anywhere and are written with dots or slashes."""
    return "" if not line or line.startswith("#") else f".*(?:{line.replace('/', '[./]')}).*"
