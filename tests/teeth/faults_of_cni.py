"""Faults of the CNI plugin: what a container would get, keep or leave behind."""

from teeth.fault import Fault


def _test(module: str, words: str = "") -> tuple[str, ...]:
    """Tests of tests/cni/test_cni_*.py, or those of them whose names have these words."""
    path = f"tests/cni/test_cni_{module}.py"
    return (path, "-k", words) if words else (path,)


_DECIDING = {
    "cni: a routed container thinks that its network is on its cable": Fault(
        "cni.plan", "_OWN = {Family.IPV4: 32,", "_OWN = {Family.IPV4: 24,", _test("plan")
    ),
    "cni: a second default route beside that of IPAM": Fault(
        "cni.plan", "            if _EVERYWHERE[family] not in there\n", "", _test("plan")
    ),
    "cni: MACs do not follow from addresses": Fault(
        "cni.plan", "first = given.addresses[0].address.packed[-4:]", "first = b'mac!'", _test("plan")
    ),
    "cni: Pods of one network masquerade to each other": Fault(
        "cni.plan", "both = {*own, *ranges}", "both = {*ranges}", _test("plan")
    ),
    "cni: a chained result's host addresses are the container's": Fault(
        "cni.plan",
        "inside = {at for at, each in enumerate(previous.interfaces) if each.name == ifname and each.sandbox}",
        "inside = {at for at, _ in enumerate(previous.interfaces)}",
        _test("plan"),
    ),
    "cni: the same address again and again": Fault(
        "cni.ipam",
        "            self._last[network, index] = value",
        "            self._last[network, index] = -1",
        _test("ipam", "round_robin"),
    ),
    "cni: addresses do not rest": Fault(
        "cni.ipam", "self.resting[value] = now", "self.used.discard(value)", _test("ipam", "rest")
    ),
    "cni: a gateway's address is given away": Fault(
        "cni.ipam", "found.add(int(each.gateway))", "found.add(-1)", _test("ipam", "gateway or round_robin")
    ),
    "cni: an address is free when one of two owners went": Fault(
        "cni.ipam",
        "self.shared[value] = self.shared.get(value, 0) + 1",
        "self.shared.get(value, 0)",
        _test("ipam", "two_owners"),
    ),
    "cni: two sets give one address to one container": Fault(
        "cni.ipam",
        "_barred(ranges) | {value for its, _, value in chosen if its is pool}",
        "_barred(ranges)",
        _test("ipam", "overlap"),
    ),
    "cni: a full chunk of a range is looked at again": Fault(
        "cni.ipam",
        "            if before != _FULL:\n                return\n",
        "            return\n",
        _test("ipam", "gaps"),
    ),
}

_REMEMBERING = {
    "cni: two processes have the journal": Fault(
        "cni.store", "if not flock(fd, wait):", "if flock(fd, wait) is None:", _test("store", "one_process")
    ),
    "cni: a deletion that began is forgotten with the agent": Fault(
        "cni.store", 'self._owe({"do": "doom", "id": id_})', "self._try_to_pay()", _test("store", "each_step")
    ),
    "cni: a full disk loses what DEL did": Fault(
        "cni.store",
        "            return  # told by",
        "            self._owed.clear()  # told by",
        _test("store", "full_disk"),
    ),
    "cni: compaction forgets who was last": Fault(
        "cni.store",
        "in self.last.items():\n            yield",
        "in {}.items():\n            yield",
        _test("store", "compaction or last_addresses"),
    ),
    "cni: a record is believed whatever its checksum": Fault(
        "cni.journal",
        "return text if data[at : at + _HEAD] == _head(text) else None",
        "return text",
        _test("journal", "flipped_bit"),
    ),
    "cni: what follows damage is lost": Fault(
        "cni.journal",
        "at = len(data) if found < 0 else found",
        "at = len(data)",
        _test("journal", "damage or flipped_bit"),
    ),
    "cni: half a record stays before the next": Fault(
        "cni.journal", "os.ftruncate(self._file, self.size)", "os.fstat(self._file)", _test("journal", "full")
    ),
    "cni: compaction replaces what readers have open": Fault(
        "cni.journal",
        "self._directory.rename(NEW, NAME)",
        "os.truncate(self._where, 0), _write_all(self._file, data)",
        _test("journal", "during_compaction"),
    ),
}

_RULES = {
    "cni: a routed container may lie about its address": Fault(
        "cni.rule_program",
        "fib saddr . iif oif missing drop",
        "fib saddr . iif oif missing accept",
        _test("masquerade", "forged"),
    ),
    "cni: a container does not reach itself by its host port": Fault(
        "cni.rule_program",
        "daddr @selves masquerade fully-random",
        "daddr @selves accept",
        _test("rule_program", "reaches_itself or chains_of_host_ports"),
    ),
    "cni: multicast is masqueraded": Fault(
        "cni.rule_program", "(*networks, words.multicast)", "networks", _test("rule_program", "multicast")
    ),
    "cni: localhost does not reach the host port of a routed container": Fault(
        "cni.rule_program", "return (loopback,)", "return ()", _test("rule_program")
    ),
    "cni: a port of all addresses comes before that of one": Fault(
        "cni.rule_program",
        "for at_address in (True, False):",
        "for at_address in (False, True):",
        _test("host_ports", "comes_before"),
    ),
    "cni: a host port wins over the node port of a Service": Fault(
        "cni.rule_program",
        "_DSTNAT, _SRCNAT, _RAW = -99, 101, -300",
        "_DSTNAT, _SRCNAT, _RAW = -101, 99, -300",
        _test("host_ports", "and_wins"),
    ),
    "cni: a Pod's packets keep its address outside of the cluster": Fault(
        "cni.rule_program",
        "daddr != {{ {kept} }} masquerade fully-random",
        "daddr {{ {kept} }} masquerade fully-random",
        _test("masquerade", "towards"),
    ),
    "cni: two containers get one host port": Fault(
        "cni.rules", "        self._refuse_taken(attachment, need.part)\n", "", _test("rules", "cannot_have_one_port")
    ),
    "cni: rules that others deleted are not missed": Fault(
        "cni.rules",
        "return self._mark is None or self._driver.mark() != self._mark",
        "return self._mark is None",
        _test("rules", "others_did"),
    ),
    "cni: clients of UDP stay with the container that lost its port": Fault(
        "cni.flows",
        "            if not self._conntrack.erase(pattern):\n",
        "            if not pattern:\n",
        _test("host_ports", "lost_its_port"),
    ),
    "cni: clients of UDP stay where they went before there was a container": Fault(
        "cni.flows",
        "            self._forget_others([each for each in ports if each.family is family], here)\n",
        "            pass\n",
        _test("host_ports", "came_before"),
    ),
}

_LINKS = {
    "cni: replies of a routed container may come from anywhere": Fault(
        "cni.link_program", "(Conf.RP_FILTER, 1))", "(Conf.RP_FILTER, 0))", _test("wiring", "strict")
    ),
    "cni: IPv6 waits for duplicate address detection": Fault(
        "cni.link_program",
        "flags = 0 if attachment.duplicate_address_detection else NODAD",
        "flags = 0",
        _test("link_program"),
    ),
    "cni: ingress has the limit of egress": Fault(
        "cni.link_program",
        "tc.limit(index, bucket(bandwidth.ingress_rate, bandwidth.ingress_burst))",
        "tc.limit(index, bucket(bandwidth.egress_rate, bandwidth.egress_burst))",
        _test("bandwidth", "buckets"),
    ),
    "cni: limits are eight times too wide": Fault(
        "cni.link_program", "per_second = max(rate // 8, 1)", "per_second = max(rate, 1)", _test("bandwidth", "buckets")
    ),
    "cni: isolated ports reach each other": Fault(
        "cni.link_program",
        "link_orders.port(hairpin, isolated)",
        "link_orders.port(hairpin, False)",
        _test("wiring", "isolated"),
    ),
    "cni: sysctls outside of the network's can be set": Fault(
        "cni.link_program",
        'if parts[0] != "net" or len(parts) < 2',
        "if len(parts) < 2",
        _test("wiring", "not_the_networks"),
    ),
    "cni: a doomed container is heard": Fault(
        "cni.wiring",
        "orders += (link_orders.change(index, _DOOM), link_orders.disable_port(index))",
        "orders += (link_orders.change(index, _DOOM),)",
        _test("wiring", "doomed"),
    ),
    "cni: an attach that fails leaves its links": Fault(
        "cni.wiring",
        "        except BaseException:\n            self.detach([attachment.link])\n            raise\n",
        "        except BaseException:\n            raise\n",
        _test("wiring", "leaves_nothing"),
    ),
    "cni: the host does not forward": Fault(
        "cni.wiring", "                self.mend_forwarding(version)\n", "", _test("wiring", "forwards")
    ),
    "cni: one's deletion takes others along": Fault(
        "cni.wiring",
        "orders = [link_orders.change(name, _DELETE) for name in both]",
        "orders = [link_orders.change(name, _DELETE) for name in self.present()]",
        _test("wiring", "leaves_others_alone"),
    ),
}

_VERBS = {
    "cni: GC removes other networks' containers": Fault(
        "cni.plugin", "if each.network == job.config.name", "if each.network", _test("keeper", "gc")
    ),
    "cni: GC that is told nothing removes everything": Fault(
        "cni.plugin",
        "valid = job.config.valid_attachments\n",
        "valid = job.config.valid_attachments or frozenset()\n",
        _test("keeper", "gc"),
    ),
    "cni: the host's own namespace gets an eth0": Fault(
        "cni.plugin",
        "== self.node.own_netns and not",
        "is None and not",
        _test("plugin", "own_namespace"),
    ),
    "cni: STATUS is content with a range that is exhausted": Fault(
        "cni.plugin", "if usage.taken >= usage.total:", "if usage.taken > usage.total:", _test("plugin", "exhausted")
    ),
    "cni: a chained plugin answers with a result of its own": Fault(
        "cni.plugin",
        "        if config.previous is not None:\n            return config.previous\n        return result_of",
        "        return result_of",
        _test("plugin", "chained"),
    ),
    "cni: a synchronous DEL does not wait": Fault(
        "cni.plugin",
        "elif config.synchronous_delete or attachment.delegate:",
        "elif attachment.delegate:",
        _test("keeper"),
    ),
    "cni: CHECK does not look at what the runtime was told": Fault(
        "cni.plugin", "            _same_addresses(attachment, job.config.previous)\n", "", _test("keeper", "check")
    ),
    "cni: an address comes free before its link is gone": Fault(
        "cni.node",
        "self.store.doom(attachment.id)\n",
        "self.store.doom(attachment.id), self._free(attachment)\n",
        _test("keeper", "comes_free"),
    ),
    "cni: an ADD that fails keeps its address": Fault(
        "cni.node",
        "if record is not None and record.state is State.ADDING:\n                    self._undo(attachment)",
        "if record is None:\n                    self._undo(attachment)",
        _test("plugin", "interface_that_is_there"),
    ),
    "cni: after a restart addresses are given again": Fault(
        "cni.node",
        "self.ipam.occupy(record.attachment.id.network, addresses_of(record.attachment))",
        "addresses_of(record.attachment)",
        _test("keeper", "restart"),
    ),
    "cni: what a killed ADD left is kept": Fault(
        "cni.keeper", "for id_ in node.abandoned():", "for id_ in ():", _test("keeper", "killed")
    ),
    "cni: a container that is gone is never released": Fault(
        "cni.keeper",
        "elif now - since >= (SETTLE_SECONDS if self._settle is None else self._settle):",
        "elif now < since:",
        _test("plugin", "gone_is_noticed"),
    ),
    "cni: a container is dead as soon as its link is gone": Fault(
        "cni.keeper",
        "elif now - since >= (SETTLE_SECONDS if self._settle is None else self._settle):",
        "elif now >= since:",
        _test("keeper", "dead"),
    ),
    "cni: another container is mended into": Fault(
        "cni.keeper",
        "!= attachment.netns_id or not",
        "is None or not",
        _test("keeper", "another_container"),
    ),
    "cni: an ADD comes before the deletions that were asked for earlier": Fault(
        "cni.keeper",
        '        plugin.before_add = partial(self._try, "spool", self.do_spooled)\n',
        "",
        _test("keeper", "spooled"),
    ),
    "cni: the dead of an earlier boot keep their addresses": Fault(
        "cni.keeper", "if each.boot != node.store.boot_id]", "if each.boot is None]", _test("plugin", "reboot")
    ),
}

_PROTOCOL = {
    "cni: containerd's spelling of keys is not understood": Fault(
        "cni.decode_capabilities",
        'Section(top.get("runtimeConfig"), "runtimeConfig", folded=True)',
        'Section(top.get("runtimeConfig"), "runtimeConfig")',
        _test("plugin", "needs_no_namespace"),
    ),
    "cni: one host port leads to two places": Fault(
        "cni.decode_capabilities",
        "if found.setdefault(at, mapping) != mapping:",
        "if not found.setdefault(at, mapping):",
        _test("decode_capabilities", "two_places"),
    ),
    "cni: a key that is there twice is guessed at": Fault(
        "cni.decode_fields",
        "if len(found) < len(pairs):",
        "if len(found) > len(pairs):",
        _test("decode", "no_json_object"),
    ),
    "cni: DEL fails for an option that was mistyped since": Fault(
        "cni.decode",
        "if invocation.command in _TAKING_AWAY:",
        "if invocation.command is Command.GC:",
        _test("keeper", "mistyped"),
    ),
    "cni: an option we do not offer is passed over": Fault(
        "cni.decode", 'if value and value != "false" and', "if value is ... and", _test("decode", "not_offer")
    ),
    "cni: hairpin and promiscuous together": Fault(
        "cni.decode",
        "if hairpin and promiscuous and hairpin_said:",
        "if hairpin is None:",
        _test("decode", "broken_option"),
    ),
    "cni: any sysctl is on the allow-list": Fault(
        "cni.decode_sysctls",
        "if not any(pattern.fullmatch(each)",
        "if not all(pattern.fullmatch(each) or True",
        _test("decode_capabilities", "allow_list"),
    ),
    "cni: results of 0.4.0 do not say the family": Fault(
        "cni.result_json",
        "numbered = version in _WITH_ADDRESS_VERSION",
        "numbered = False",
        _test("result", "full_result_conforms"),
    ),
    "cni: older versions are told what only 1.1.0 knows": Fault(
        "cni.result_json", "extras = version == versions.NEWEST", "extras = True", _test("result", "conforms")
    ),
    "cni: requests of one container overtake each other": Fault(
        "cni.server",
        "        if client.container in self._lines:\n",
        "        if client.container is None:\n",
        _test("server", "one_after_the_other"),
    ),
    "cni: everybody on the host is served": Fault(
        "cni.server",
        "if (user := peer(connection)[1]) not in (0, os.geteuid()):",
        "if (user := peer(connection)[1]) is None:",
        _test("server", "not_root"),
    ),
    "cni: an ADD is done for a runtime that was killed": Fault(
        "cni.server", '!= "DEL" and client.gone():', '!= "DEL" and client is None:', _test("server", "nobody_waits")
    ),
    "cni: a DEL is not done for a runtime that was killed": Fault(
        "cni.server",
        'if client.request.environment.get("CNI_COMMAND") != "DEL" and client.gone():',
        "if client.gone():",
        _test("server", "nobody_waits"),
    ),
}

CNI = {**_DECIDING, **_REMEMBERING, **_RULES, **_LINKS, **_VERBS, **_PROTOCOL}
