"""Source ranges become narrower, wider, others: the old ones are in the way of the new ones, and go first."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from builders import exposed, networks, plan_of, service, slices, up
from generated.simulator import Simulator, plain, wanted

from netplane.backends.backend import Compiled
from netplane.backends.nftables import NFTABLES
from netplane.backends.registry import BACKENDS
from netplane.kernel.host import Host
from netplane.kernel.netns import Namespace
from netplane.plan.plan import Plan
from netplane.programs.nftables import NftablesProgram
from netplane.programs.nftables_changes import Applied, changes_from_found

SEEDS = range(6)
POOL = networks(
    *("0.0.0.0/0", "10.0.0.0/8", "10.244.0.0/16", "10.244.0.0/17", "10.244.128.0/17", "10.244.7.0/24", "10.245.0.0/16"),
    *("192.0.2.0/24", "192.0.2.1/32", "192.0.2.255/32", "198.51.100.0/24", "255.255.255.255/32"),
    *("::/0", "fd00::/8", "fd00:244::/32", "fd00:244:1::/64", "2001:db8::/64", "2001:db8::1/128"),
)


def plans(seed: int, count: int) -> Iterator[Plan]:
    """A Service whose ranges are others every time, beside one whose are not."""
    random = Random(seed)
    calm = service("calm", ranges=["10.0.0.0/8"], ingress=["203.0.113.6", "2001:db8:113::6"], ips=["10.96.0.11"])
    for _ in range(count):
        ranges = map(str, random.sample(POOL, random.randint(0, 5)))
        web = exposed("web", ranges=[*ranges])
        yield plan_of(web, slices(web, up("10.244.1.5", "n1"), up("fd00:244:1::5", "n1")), calm)


@pytest.mark.parametrize("seed", SEEDS)
def test_both_ways_to_the_changes_make_room_for_a_range(seed):
    by_memory, by_reading, applied = Simulator(), Simulator(), Applied.of(NftablesProgram())
    made_room = 0
    for plan in plans(seed, 60):
        want = NFTABLES.compile(plan).program.nftables
        remembered = applied.changes_to(want)
        made_room += len(remembered.make_elements.remove)
        by_memory.apply(remembered)
        by_reading.apply(changes_from_found(by_reading.found(), want))
        assert plain(by_memory.found()) == plain(by_reading.found()) == wanted(want)
    assert made_room > 20


@pytest.mark.parametrize("seed", SEEDS)
def test_a_range_that_is_in_nobodys_way_stays_until_the_sweep(seed):
    """So that whoever may come both before and after the change may come all the time."""
    kernel, applied = Simulator(), Applied.of(NftablesProgram())
    for plan in plans(seed, 30):
        changes = applied.changes_to(NFTABLES.compile(plan).program.nftables)
        for name, removed in changes.make_elements.remove.items():
            for key in removed if name[1] == "allowed" else ():
                half = len(key) // 2
                added = changes.make_elements.add[name]
                assert any(key[:half] <= new[half:] and new[:half] <= key[half:] for new in added)
        kernel.apply(changes)


@pytest.mark.kernel
@pytest.mark.parametrize("backend", sorted(BACKENDS))
@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_takes_any_ranges_after_any_others(seed, backend):
    with Namespace() as namespace, namespace.run(Host) as host:
        compiled: Compiled | None = None
        for plan in plans(seed, 20):
            compiled = BACKENDS[backend].compile(plan, compiled)
            want = compiled.program
            namespace.run(lambda want=want: host.apply(want, reread=False))
            left = namespace.run(lambda want=want: host.pending(want))
            assert [line for each in left for line in each.lines()] == []
