"""What the wire format and the socket promise: see netplane/kernel/netlink.py."""

import sys

import pytest

from netplane.errors import KernelError
from netplane.kernel import netlink, nft_codec
from netplane.kernel.netlink import ACK, CREATE, NetlinkSocket, Refused, Request, attribute, nested, text
from netplane.kernel.netns import Namespace
from netplane.model.address import Family

little_endian = pytest.mark.skipif(sys.byteorder != "little", reason="bytes are written for little-endian machines")

NEW_TABLE = 10 << 8


def new_table(name: str) -> Request:
    return Request(NEW_TABLE, bytes((2, 0, 0, 0)) + text(1, name), CREATE)


def no_such_set(number: int) -> Request:
    return nft_codec.get_set((Family.IPV4, f"absent-{number}"))


@little_endian
@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (attribute(1, b""), "0400 0100"),
        (attribute(1, b"\xaa"), "0500 0100 aa000000"),
        (attribute(2, b"\xaa\xbb\xcc\xdd"), "0800 0200 aabbccdd"),
        (attribute(3, b"\xaa\xbb\xcc\xdd\xee"), "0900 0300 aabbccdd ee000000"),
        (text(4, "abc"), "0800 0400 61626300"),
        (text(4, "abcd"), "0900 0400 61626364 00000000"),
        (nested(5, attribute(1, b"\xaa"), attribute(2, b"")), "1000 0580 0500 0100 aa000000 0400 0200"),
    ],
)
def test_attributes_have_these_bytes(encoded, expected):
    assert encoded == bytes.fromhex(expected)


def test_attributes_come_back_without_padding_and_flags():
    payload = b"head" + attribute(1, b"abc") + nested(2, attribute(7, b"x")) + attribute(3, b"")
    assert netlink.attributes(payload, 4) == {1: b"abc", 2: attribute(7, b"x"), 3: b""}


def test_a_last_attribute_needs_no_padding():
    assert netlink.attributes(attribute(1, b"abcde")[:9]) == {1: b"abcde"}


@pytest.mark.parametrize("broken", [b"\0\0\0\0", attribute(1, b"abcd")[:6], b"\x05", b"\xff\xff\1\0"])
def test_an_attribute_that_does_not_fit_is_an_error_and_never_a_loop(broken):
    with pytest.raises(ValueError, match="netlink attribute"):
        netlink.attributes(broken)


def test_strings_that_are_no_text_are_shown_and_not_refused():
    assert netlink.as_text(b"a\xffb\0") == r"a\xffb"


def test_a_batch_begins_ends_and_asks_for_one_acknowledgement():
    begin, first, last, end = netlink.batch(10, [Request(1, b"a"), Request(2, b"b", CREATE)])
    assert (begin, end) == (Request(0x10, b"\0\0\0\x0a"), Request(0x11, b"\0\0\0\x0a"))
    assert (first.flags, last.flags) == (0, CREATE | ACK)


@pytest.fixture
def in_namespace():
    """Runs work that takes a socket to a new namespace."""
    with Namespace() as namespace, namespace.run(lambda: NetlinkSocket(netlink.NETFILTER, "test")) as socket:
        yield lambda work: namespace.run(lambda: work(socket))


@pytest.mark.kernel
def test_a_transaction_happens_whole(in_namespace):
    def work(socket):
        refusals = socket.transact(netlink.batch(10, [new_table("one"), new_table("netplane")]))
        return refusals, len(socket.ask(nft_codec.get_table(Family.IPV4), "look"))

    assert in_namespace(work) == ([], 1)


@pytest.mark.kernel
def test_every_refusal_of_a_transaction_is_told_and_nothing_happens(in_namespace):
    def work(socket):
        remove_absent = [Request(10 << 8 | 2, bytes((2, 0, 0, 0)) + text(1, name)) for name in ("absent", "gone")]
        steps = [remove_absent[0], new_table("netplane"), remove_absent[1]]
        refusals = socket.transact(netlink.batch(10, steps))
        with pytest.raises(Refused, match="test: look: No such file or directory"):
            socket.ask(nft_codec.get_table(Family.IPV4), "look")
        return refusals

    refusals = in_namespace(work)
    assert [(refusal.position, refusal.said) for refusal in refusals] == [
        (1, "No such file or directory"),
        (3, "No such file or directory"),
    ]
    assert {refusal.offset for refusal in refusals} == {4}  # the attribute with the name, after nfgenmsg


@pytest.mark.kernel
def test_the_kernel_s_own_words_are_told():
    # RTM_NEWROUTE with a table but no destination prefix that fits: rtnetlink explains itself in words.
    route = bytes((2, 33, 0, 0, 254, 0, 0, 1)) + bytes(4)
    with (
        Namespace() as namespace,
        namespace.run(lambda: NetlinkSocket(netlink.ROUTE, "routes")) as socket,
        pytest.raises(Refused, match=r"routes: add: .+: Invalid argument") as caught,
    ):
        socket.ask(Request(24, route, CREATE), "add")
    assert caught.value.refusal.said != "Invalid argument"


@pytest.mark.kernel
def test_answers_that_got_lost_are_an_error_and_the_socket_goes_on(in_namespace):
    def work(socket):
        with pytest.raises(KernelError, match="an answer was lost: No buffer space"):
            socket.transact([no_such_set(number) for number in range(40_000)])
        return socket.ask(nft_codec.get_generation(), "read the generation")

    assert len(in_namespace(work)) == 1


@pytest.mark.kernel
def test_a_transaction_without_acknowledgement_is_an_error(in_namespace):
    def work(socket):
        with pytest.raises(KernelError, match="did not answer"):
            socket.transact([nft_codec.get_generation()])  # is answered, but without ACK not acknowledged

    in_namespace(work)


@pytest.mark.kernel
def test_the_links_of_a_namespace_are_dumped_by_the_same_socket_class():
    with Namespace() as namespace, namespace.run(lambda: NetlinkSocket(netlink.ROUTE, "links")) as socket:
        links = socket.dump(Request(18, bytes(16)), "list links")
    assert [netlink.as_text(netlink.attributes(link, 16)[3]) for link in links] == ["lo"]


@pytest.mark.kernel
def test_a_kernel_without_a_protocol_is_a_missing_requirement():
    with pytest.raises(netlink.RequirementError, match="no netlink protocol 31"):
        NetlinkSocket(31, "test")
