"""What commands answer about examples/shop, and what they do to a kernel of their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from command_line import ON_N1, ROOT, SHOP, netplane, process

from netplane.backends.registry import BACKENDS
from netplane.kernel import command, probe
from netplane.kernel.iptables_variants import Variant, tool
from netplane.kernel.netns import Namespace
from netplane.programs.iptables_text import scripts

pytestmark = pytest.mark.kernel
JSON = ("--output", "json")
CASE = str(ROOT / "tests" / "cases" / "dns")
every_backend = pytest.mark.parametrize("backend", sorted(BACKENDS))


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    with Namespace() as made:
        yield made


def ruleset(namespace: Namespace) -> str:
    """All rules there are. The tables and hooks of iptables, which stay once they are used, are none."""
    listed = namespace.run(lambda: command.run("nft", "-a", "list", "ruleset", mechanism="nftables", doing="test"))
    return _UNUSED.sub("", listed)


_HOOK = r"\tchain [A-Z]+ \{ # handle \d+\n\t\ttype \w+ hook \w+ priority [\w -]+; policy accept;\n\t\}\n\n?"
_UNUSED = re.compile(rf"table ip6? (?:nat|filter) \{{ # handle \d+\n(?:{_HOOK})*\}}\n")


def load(namespace: Namespace, text: str) -> None:
    """Load what `render` printed."""
    if text.startswith("#"):
        for family, script in scripts(text).items():
            words = tool(Variant.NF_TABLES, family, "restore"), "--noflush"
            namespace.run(lambda words=words, script=script: command.run(*words, stdin=script, **TEST))
    else:
        namespace.run(lambda: command.run("nft", "-f", "-", stdin=text, **TEST))


TEST = {"mechanism": "test", "doing": "load what was rendered"}


# --- JSON: fields are only ever added -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("plan", "show", *ON_N1), {"node", "zone", "addresses", "families", "services", "problems"}),
        (("plan", "diff", *ON_N1, "--to", SHOP), {"differences"}),
        (
            ("service", "explain", "backend", *ON_N1),
            {"namespace", "name", "rows", "notes", "problems", "healthChecks"},
        ),
        (("packet", "decide", "node", "10.96.0.10:80/tcp", *ON_N1), {"origin", "source", "outcome", "reason", "to"}),
        (("cluster", "check", SHOP), {"problems", "notes", "objects"}),
        (("cluster", "show", SHOP), {"services", "objects"}),
        (("cluster", "diff", SHOP, SHOP), {"differences"}),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else "",
)
def test_answers_have_these_fields(words, keys):
    done = netplane(*words, *JSON)
    assert (done.code, done.err) == (0, "")
    assert done.json.keys() >= keys


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        (("service", "list", *ON_N1), {"namespace", "name", "rows", "notes", "problems", "healthChecks"}),
        (("backend", "list"), {"name", "deviations"}),
        (("backend", "check", "nftables"), {"name", "minimum", "missing"}),
        (("host", "check"), {"check", "result", "said"}),
    ],
    ids=lambda words: " ".join(words[:2]) if isinstance(words, tuple) else "",
)
def test_lists_have_entries_with_these_fields(words, keys):
    done = netplane(*words, *JSON)
    assert (done.code, done.err) == (0, "")
    assert done.json
    assert all(each.keys() >= keys for each in done.json)


def test_a_row_in_json_has_a_verdict_for_every_origin():
    (row, *_) = netplane("service", "explain", "shop/backend", *ON_N1, *JSON).json["rows"]
    assert row["verdicts"].keys() == {"pod", "node", "outside"}
    assert row["verdicts"]["node"]["verdict"] == "forward"
    assert row["verdicts"]["node"]["masquerade"] is True
    assert {each["address"] for each in row["verdicts"]["pod"]["endpoints"]} == {
        "10.244.1.21:8080",
        "10.244.2.21:8080",
        "10.244.2.22:8080",
    }


# --- packet decide --------------------------------------------------------------------------------------------------

BACKEND = {"10.244.1.21:8080", "10.244.2.21:8080", "10.244.2.22:8080"}


@pytest.mark.parametrize(
    ("sender", "to", "origin", "outcome", "endpoints"),
    [
        ("frontend-1", "10.96.0.10:80/tcp", "pod", "deliver", BACKEND),
        ("shop/frontend-1", "10.96.0.10:80/TCP", "pod", "deliver", BACKEND),
        ("frontend-1", "10.96.0.10:000000080/tcp", "pod", "deliver", BACKEND),
        ("10.244.1.99", "10.96.0.10:80/tcp", "pod", "deliver", BACKEND),
        ("node", "10.96.0.53:53/udp", "node", "deliver", {"10.244.1.53:5353", "10.244.2.53:5353"}),
        ("192.0.2.11", "10.96.0.10:80/tcp", "node", "deliver", BACKEND),
        (
            "frontend-1",
            "[fd00:10:96::53]:53/tcp",
            "pod",
            "deliver",
            {"[fd00:10:244:1::53]:5353", "[fd00:10:244:2::53]:5353"},
        ),
        ("198.51.100.9", "203.0.113.6:80/tcp", "outside", "deliver", {"10.244.1.11:8080", "10.244.2.11:8080"}),
        ("8.8.8.8", "203.0.113.6:80/tcp", "outside", "drop", set()),
        ("8.8.8.8", "192.0.2.11:30070/tcp", "outside", "reject", set()),
        ("frontend-1", "10.96.0.10/icmp", "pod", "reject", set()),
        ("frontend-1", "10.96.0.10:81/tcp", "pod", "reject", set()),
        ("frontend-1", "10.244.2.31:5432/tcp", "pod", "untouched", set()),
        ("frontend-1", "10.96.0.10:80/sctp", "pod", "reject", set()),
    ],
)
def test_the_oracle_answers(sender, to, origin, outcome, endpoints):
    done = netplane("packet", "decide", sender, to, *ON_N1, *JSON)
    assert done.code == 0
    assert (done.json["origin"], done.json["outcome"]) == (origin, outcome)
    assert {each["address"] for each in done.json.get("to", ())} == endpoints
    assert done.json["reason"]


def test_an_answer_in_text_says_who_from_where_to_and_why():
    done = netplane("packet", "decide", "backend-1", "10.96.0.10:80/tcp", *ON_N1)
    assert done.out == (
        "pod 10.244.1.21 -> 10.96.0.10:80/tcp: deliver to 10.244.1.21:8080 (backend-1) masqueraded,"
        " 10.244.2.21:8080 (backend-2), 10.244.2.22:8080 (backend-3)\n"
        "  cluster IP of Service shop/backend:http, from pod\n"
    )


def test_the_origin_may_be_said():
    done = netplane("packet", "decide", "10.244.2.99", "10.96.0.10:80/tcp", "--origin", "pod", *ON_N1, *JSON)
    assert done.json["origin"] == "pod"
    assert netplane("packet", "decide", "10.244.2.99", "10.96.0.10:80/tcp", *ON_N1, *JSON).json["origin"] == "outside"


@pytest.mark.parametrize(
    ("sender", "to", "said"),
    [
        ("nobody", "10.96.0.10:80/tcp", "no Pod is called so"),
        ("frontend-1", "10.96.0.10", "write ADDRESS:PORT/PROTOCOL"),
        ("frontend-1", "10.96.0.10:80", "write ADDRESS:PORT/PROTOCOL"),
        ("frontend-1", "10.96.0.10:0/tcp", "a port from 1 to 65535"),
        ("frontend-1", "10.96.0.10/tcp", "a port from 1 to 65535"),
        ("frontend-1", f"10.96.0.10:0000000{'9' * 5000}/tcp", "a port from 1 to 65535"),
        ("frontend-1", "10.96.0.10:80/gre", "none of tcp, udp, sctp, icmp"),
        ("frontend-1", "shop:80/tcp", "'shop' is not an IP address"),
        ("frontend-1", "fd00:10:96::10:80/tcp", "write ADDRESS:PORT/PROTOCOL"),
        ("10.244.1.9", "[fd00:10:96::10]:80/tcp", "different families"),
    ],
)
def test_a_packet_that_makes_no_sense_is_one_line(sender, to, said):
    done = netplane("packet", "decide", sender, to, *ON_N1)
    assert done.code == 3
    assert said in done.error


# --- service explain ------------------------------------------------------------------------------------------------


def test_an_ambiguous_name_lists_the_services_and_the_whole_name_helps(tmp_path):
    shutil.copytree(SHOP, tmp_path, dirs_exist_ok=True)
    (tmp_path / "twin.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: other}\n"
        "spec: {clusterIP: 10.96.0.99, ports: [{port: 80}]}\n"
    )
    source = ("--from", str(tmp_path), "--node", "n1")
    done = netplane("service", "explain", "cart", *source)
    assert done.code == 3
    assert "in several namespaces: other/cart, shop/cart" in done.error
    assert netplane("service", "explain", "other/cart", *source, *JSON).json["namespace"] == "other"


@pytest.mark.parametrize("name", ["nobody", "other/cart", "shop/", "/cart"])
def test_an_unknown_name_says_how_to_find_the_known_ones(name):
    done = netplane("service", "explain", name, *ON_N1)
    assert done.code == 3
    assert "`netplane service list` shows them" in done.error


def test_an_explanation_names_endpoints_where_they_are_and_who_is_not_used():
    out = netplane("service", "explain", "backend", *ON_N1).out
    assert "backend-1" in out
    assert "n1 (this node)" in out
    assert "10.244.1.22" in out  # not ready, and said so


# --- backend --------------------------------------------------------------------------------------------------------


@every_backend
def test_apply_then_diff_then_clean(backend, namespace):
    def run(*words):
        return netplane("backend", words[0], backend, *words[1:], namespace=namespace)

    namespace.run(lambda: command.run("nft", "add table ip other", mechanism="nftables", doing="test"))
    before = ruleset(namespace)
    pending = run("diff", *ON_N1, *JSON)
    assert pending.code == 1
    assert {"mechanism", "made", "swept", "lines"} <= pending.json[0].keys()
    assert ruleset(namespace) == before
    applied = run("apply", *ON_N1, *JSON)
    assert (applied.code, applied.json) == (0, {"made": sum(each["made"] for each in pending.json), "swept": 0})
    assert run("diff", *ON_N1).out == "nothing to do\n"
    assert run("diff", *ON_N1).code == 0
    assert run("apply", *ON_N1).out == "made 0, swept 0\n"
    after = ruleset(namespace)
    dry = run("clean", "--dry-run")
    assert dry.code == 1
    assert dry.out.startswith("- ")
    assert ruleset(namespace) == after
    assert run("clean", *JSON).json["swept"] > 0
    assert ruleset(namespace) == before
    assert run("clean").out == "made 0, swept 0\n"
    assert run("clean", "--dry-run").code == 0


@every_backend
def test_what_render_prints_is_what_apply_makes(backend, namespace):
    load(namespace, netplane("backend", "render", backend, *ON_N1).out)
    assert netplane("backend", "diff", backend, *ON_N1, namespace=namespace).out == "nothing to do\n"


@every_backend
@pytest.mark.parametrize("verb", ["apply", "diff", "clean"])
def test_a_foreign_table_of_our_name_is_left_alone(backend, verb, namespace):
    foreign = "add table ip netplane { chain theirs { accept; }; }"
    namespace.run(lambda: command.run("nft", foreign, mechanism="nftables", doing="test"))
    before = ruleset(namespace)
    done = netplane("backend", verb, backend, *(() if verb == "clean" else ON_N1), namespace=namespace)
    assert done.code == 5
    assert "table ip netplane is not ours" in done.error
    assert ruleset(namespace) == before


def test_a_program_that_is_missing_is_named_and_one_that_is_there_is_not():
    assert probe.missing_programs(("nft-of-another-world", "nft")) == ("nft-of-another-world",)


# --- the lab --------------------------------------------------------------------------------------------------------


@pytest.mark.lab
@pytest.mark.filterwarnings("ignore::DeprecationWarning:scapy")
def test_a_case_that_agrees_ends_with_0_and_says_so_in_json():
    done = process("lab", "run", CASE, "--backend", "nftables", "--packet", "2", *JSON)
    assert done.code == 0, done
    (result,) = done.json
    assert result.keys() >= {"case", "backend", "packets", "agrees", "error", "seconds"}
    (packet,) = result["packets"]
    assert packet.keys() >= {"line", "packet", "expected", "seen", "differences", "rules", "again"}
    assert result["agrees"] is True
    assert packet["differences"] == []


@pytest.mark.lab
def test_a_case_that_differs_ends_with_1(tmp_path):
    shutil.copy(f"{CASE}/cluster.yaml", tmp_path)
    (tmp_path / "packets.txt").write_text("pod client udp 10.96.0.53:53 -> drop\n")
    done = process("lab", "run", str(tmp_path))
    assert done.code == 1, done
    assert "expected  drop" in done.out


# --- without privileges ---------------------------------------------------------------------------------------------

NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
POWERLESS = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")  # root in a container


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is missing")
@pytest.mark.parametrize("before", [NOBODY, POWERLESS], ids=["nobody", "root-without-capabilities"])
@pytest.mark.parametrize(
    "words",
    [("agent", "run", *ON_N1), ("backend", "apply", "nftables", *ON_N1), ("lab", "run", CASE)],
    ids=lambda words: " ".join(words[:2]),
)
def test_without_privileges_one_line_says_so(words, before):
    if process("--version", before=before).code != 0:
        pytest.skip("this user may not read the interpreter")
    done = process(*words, before=before)
    assert done.code == 4
    assert "run as root" in done.error
    assert "Traceback" not in done.err
