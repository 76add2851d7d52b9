"""The environment of a command: the reference library's cases (containernetworking/cni, pkg/skel and pkg/types)."""

import pytest

from cni.environment import invocation, is_name, link_name_fault
from cni.failure import Code, Failure
from cni.request import Command

GIVEN = {
    "CNI_CONTAINERID": "some-container-id",
    "CNI_NETNS": "/some/netns/path",
    "CNI_IFNAME": "eth0",
    "CNI_ARGS": "IP=10.1.2.3",
    "CNI_PATH": "/some/cni/path",
}


def environment(command: str, without: tuple[str, ...] = (), **changed: str) -> dict[str, str]:
    """What a runtime sets for a command."""
    given = {"CNI_COMMAND": command, **GIVEN, **changed}
    return {key: value for key, value in given.items() if key not in without}


def failure_of(given: dict[str, str]) -> Failure:
    with pytest.raises(Failure) as raised:
        invocation(given)
    assert raised.value.code is Code.INVALID_ENVIRONMENT
    return raised.value


def test_what_a_runtime_sets_is_what_is_asked():
    asked = invocation(environment("ADD", CNI_PATH="/opt/cni/bin::/usr/lib/cni"))
    assert asked.command is Command.ADD
    assert (asked.container, asked.netns, asked.ifname) == ("some-container-id", "/some/netns/path", "eth0")
    assert asked.arguments == {"IP": "10.1.2.3"}
    assert asked.path == ("/opt/cni/bin", "/usr/lib/cni")


# skel: "required / optional env vars", one table per command
REQUIRED = {
    "ADD": {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
    "CHECK": {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"},
    "DEL": {"CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"},
    "GC": {"CNI_COMMAND", "CNI_PATH"},
    "STATUS": {"CNI_COMMAND", "CNI_PATH"},
    "VERSION": {"CNI_COMMAND"},
}


@pytest.mark.parametrize("empty", [False, True], ids=["unset", "empty"])
@pytest.mark.parametrize("variable", ["CNI_COMMAND", *GIVEN])
@pytest.mark.parametrize("command", REQUIRED)
def test_skel_required_and_optional_env_vars(command, variable, empty):
    given = environment(command) | {variable: ""} if empty else environment(command, without=(variable,))
    if variable in REQUIRED[command]:
        assert failure_of(given).msg == f"required env variables [{variable}] missing"
    else:
        assert invocation(given).command.value == command


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_skel_reports_that_all_of_them_are_missing_not_just_the_first(command):
    given = environment(command, without=("CNI_PATH", "CNI_IFNAME", "CNI_NETNS"))
    assert failure_of(given).msg == "required env variables [CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"


def test_all_variables_missing_are_named_in_order():
    missing = failure_of({"CNI_COMMAND": "ADD"}).msg
    assert missing == "required env variables [CNI_CONTAINERID,CNI_NETNS,CNI_IFNAME,CNI_PATH] missing"


@pytest.mark.parametrize("command", ["NOPE", "add", " ADD", "ADD ", "\x00"])
def test_skel_an_unknown_command_is_an_error(command):
    assert failure_of({"CNI_COMMAND": command}).msg.startswith("unknown CNI_COMMAND: ")


@pytest.mark.parametrize(
    "container", ["some-%%container-id", "a/b", "../x", "-a", ".a", "_a", "a b", "a\n", "ä", "a\0"]
)
def test_skel_returns_an_error_when_container_id_has_invalid_characters(container):
    said = failure_of(environment("ADD", CNI_CONTAINERID=container))
    assert said.msg == "invalid characters in containerID"
    assert "CNI_CONTAINERID" in said.details


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
@pytest.mark.parametrize(
    ("ifname", "said"),
    [
        pytest.param("1234567890123456", "interface name is too long", id="interface name is too long"),
        pytest.param("ähnlichesüber8", "interface name is too long", id="too long in bytes"),
        pytest.param(".", "interface name is . or ..", id="interface name is ."),
        pytest.param("..", "interface name is . or ..", id="interface name is .."),
        pytest.param("test/test", "contains / or : or whitespace", id="contains invalid characters /"),
        pytest.param("test:test", "contains / or : or whitespace", id="contains invalid characters :"),
        pytest.param("test test", "contains / or : or whitespace", id="contains invalid characters whitespace"),
        pytest.param("a\u2003b", "contains / or : or whitespace", id="unicode whitespace"),
        pytest.param("eth%d", "contains %", id="the kernel would choose another name"),
        pytest.param("a\0b", "zero byte", id="zero byte"),
        pytest.param("a\udcff", "not UTF-8", id="not UTF-8"),
    ],
)
def test_skel_return_errors_when_interface_name_is_invalid(command, ifname, said):
    failure = failure_of(environment(command, CNI_IFNAME=ifname))
    assert said in failure.msg
    assert "CNI_IFNAME" in failure.details


@pytest.mark.parametrize("name", ["eth0", "e", "123456789012345", "a-b_c.100", "net1@x", "ö", "x\x1cy"])
def test_names_a_link_may_have(name):
    assert link_name_fault(name) == ("", "")
    assert invocation(environment("ADD", CNI_IFNAME=name)).ifname == name


@pytest.mark.parametrize("name", ["a", "k8s.io-3", "A_b.c-d", "0", "x" * 300])
def test_names_a_container_or_network_may_have(name):
    assert is_name(name)


def test_what_kubernetes_says_is_understood():
    said = "K8S_POD_INFRA_CONTAINER_ID=4f1c;K8S_POD_UID=u-1;IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web"
    assert invocation(environment("ADD", CNI_ARGS=said)).arguments["K8S_POD_NAME"] == "web"


@pytest.mark.parametrize("pair", ["", "IP", "IP=1=2", "IP=10.1.2.3;", ";", "=;=="])
def test_args_invalid_pair(pair):
    said = environment("ADD", CNI_ARGS=pair or ";")
    assert failure_of(said).msg.startswith("CNI_ARGS: invalid pair")


def test_args_unknown_args():
    assert "unknown args ['NOPE', 'WHAT']" in failure_of(environment("ADD", CNI_ARGS="WHAT=1;NOPE=2;IP=::1")).msg


@pytest.mark.parametrize("word", ["1", "true", "TRUE", "True"])
def test_args_unknown_args_are_ignored_where_the_runtime_says_so(word):
    arguments = invocation(environment("ADD", CNI_ARGS=f"WHAT=1;IgnoreUnknown={word}")).arguments
    assert arguments["WHAT"] == "1"


@pytest.mark.parametrize(("word", "said"), [("0", "unknown args"), ("false", "unknown args"), ("yes", "error parsing")])
def test_args_ignore_unknown_is_a_boolean(word, said):
    assert said in failure_of(environment("ADD", CNI_ARGS=f"IgnoreUnknown={word};WHAT=1")).msg


@pytest.mark.parametrize("said", ["nonsense", "a=b=c;IP=10.1.2.3", "WHAT=1", "\udcff=1"])
def test_del_never_fails_for_its_arguments(said):
    assert invocation(environment("DEL", CNI_ARGS=said)).arguments.keys() <= {"IP", "WHAT"}


@pytest.mark.parametrize("netns", ["", None])
def test_del_needs_no_namespace(netns):
    given = environment("DEL", without=("CNI_NETNS",)) | ({} if netns is None else {"CNI_NETNS": netns})
    assert invocation(given).netns == ""


@pytest.mark.parametrize("variable", ["CNI_NETNS", "CNI_ARGS"])
def test_bytes_that_json_cannot_say_are_refused(variable):
    assert variable in failure_of(environment("ADD", **{variable: "IP=\udcff"})).msg


def test_del_with_a_namespace_that_json_cannot_say_has_none():
    assert invocation(environment("DEL", CNI_NETNS="/x/\udcff")).netns == ""


@pytest.mark.parametrize("command", ["GC", "STATUS", "VERSION"])
def test_what_is_not_needed_is_not_looked_at(command):
    asked = invocation(environment(command, CNI_CONTAINERID="%%", CNI_IFNAME="/", CNI_ARGS="nonsense"))
    assert (asked.container, asked.ifname, asked.arguments) == ("", "", {})
