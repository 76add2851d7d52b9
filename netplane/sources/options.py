"""Options in words -> Settings of a plan: command line flags and the `settings.yaml` of a case use the same ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from netplane.errors import InputError
from netplane.model.address import IPNetwork
from netplane.plan.settings import Bridge, InterfacePrefix, LocalDetection, NodePortScope, PodRange, Settings
from netplane.sources import fields
from netplane.sources.fields import Bad, each, shown


def settings_of(options: Mapping[str, object]) -> Settings:
    """The usual settings with `options` set. Raises InputError that names the option and says what it takes."""
    made = Settings()
    for option, value in options.items():
        if option not in _OPTIONS:
            raise InputError(f"option {shown(option)} is unknown; there is {', '.join(sorted(_OPTIONS))}")
        made = _OPTIONS[option](made, option, value)
    return made


def _local(value: object, option: str) -> LocalDetection:
    """`pod-range`, `pod-range=CIDR,...`, `bridge=NAME` or `interface-prefix=PREFIX`."""
    way, equals, rest = value.partition("=") if isinstance(value, str) else ("", "", "")
    match way, equals:
        case "pod-range", "":
            return PodRange()
        case "pod-range", "=":
            return PodRange(_networks(rest, option))
        case "bridge", "=":
            return Bridge(rest)
        case "interface-prefix", "=":
            return InterfacePrefix(rest)
    raise InputError(
        f"{option}: {shown(value)} is not known;"
        " write pod-range, pod-range=CIDR,..., bridge=NAME or interface-prefix=PREFIX"
    )


def _node_ports(value: object, option: str) -> NodePortScope | tuple[IPNetwork, ...]:
    words = [scope.value for scope in NodePortScope]
    if value in words:
        return NodePortScope(value)
    try:
        return _networks(value, option)
    except InputError as error:
        raise InputError(f"{error}, or one of {', '.join(words)}") from None


def _networks(value: object, option: str) -> tuple[IPNetwork, ...]:
    """One or more networks, as a list or with commas between."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | tuple) or not listed:
        raise InputError(f"{option}: {shown(value)} is no list of networks; write CIDR,...")
    try:
        return tuple(fields.network(str(text).strip(), field) for field, text in each(listed, option))
    except Bad as bad:
        raise InputError(str(bad)) from None


def _yes_or_no(value: object, option: str) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise InputError(f"{option}: {shown(value)} is not known; write true or false")


def _proxy_name(value: object, option: str) -> str:
    if value == "":
        return ""
    if not isinstance(value, str):
        raise InputError(f"{option}: {shown(value)} is no string; put it in quotes")
    try:
        return fields.label_value(value, option)
    except Bad as bad:
        raise InputError(str(bad)) from None


_OPTIONS: dict[str, Callable[[Settings, str, object], Settings]] = {
    "local": lambda made, option, value: replace(made, local=_local(value, option)),
    "masquerade-all": lambda made, option, value: replace(made, masquerade_all=_yes_or_no(value, option)),
    "node-ports": lambda made, option, value: replace(made, node_ports=_node_ports(value, option)),
    "service-ranges": lambda made, option, value: replace(made, service_ranges=_networks(value, option)),
    "drop-invalid": lambda made, option, value: replace(made, drop_invalid=_yes_or_no(value, option)),
    "proxy-name": lambda made, option, value: replace(made, proxy_name=_proxy_name(value, option)),
}
