"""Addresses that another plugin gives (`ipam.type`): asked for, checked, and given back."""

from __future__ import annotations

import json
from collections.abc import Mapping

from cni import delegate
from cni.attachment import Attachment
from cni.failure import Code, Failure
from cni.plan import Given, given_by
from cni.request import Command, Invocation
from cni.result import Result


def ask(raw: Mapping[str, object], invocation: Invocation, command: Command) -> Result | None:
    """Have the plugin that a configuration names do something. Raises Failure like `delegate.run`."""
    ipam = raw["ipam"]
    return delegate.run(str(ipam["type"]) if isinstance(ipam, Mapping) else "", command, invocation, raw)


def given(raw: Mapping[str, object], invocation: Invocation) -> Given:
    """What it gives a container. Raises Failure, also if that is no address."""
    result = ask(raw, invocation, Command.ADD)
    if result is None or not result.addresses:
        raise Failure(Code.INVALID_CONFIG, "the IPAM plugin gave no address")
    return given_by(result)


def give_back(attachment: Attachment) -> None:
    """Tell it that the addresses of an attachment are free. It needs what it was told for ADD. Raises Failure."""
    id_ = attachment.id
    invocation = Invocation(Command.DEL, id_.container, attachment.netns, id_.ifname, {}, attachment.cni_path)
    ask(json.loads(attachment.delegate_config), invocation, Command.DEL)
