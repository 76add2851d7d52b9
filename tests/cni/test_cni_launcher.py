"""The executable a runtime starts: the real one, with a socket and a spool of its own. See cni/launcher/launcher.c."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from launching import CONFIG, SECONDS, Recorder, environment, error

from cni import spool, versions
from cni.request import Reply
from cni.wire import STDIN_BYTES
from netplane.kernel.netns import Namespace

NOBODY = 65534
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
WITHOUT_AGENT = [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50), ("NONSENSE", 4), ("add", 4), ("ADDX", 4)]


# --- what it is -----------------------------------------------------------------------------------------------------


def test_it_is_small_and_needs_nothing_but_the_kernel(compiled_launcher):
    content = compiled_launcher.read_bytes()
    assert len(content) <= 16 << 10  # the promise is 100 KiB
    kind, _, _, _, headers = struct.unpack_from("<HHIQQ", content, 16)
    size, count = struct.unpack_from("<HH", content, 54)
    segments = [struct.unpack_from("<II", content, headers + at * size) for at in range(count)]
    executable, interpreter, dynamic, stack = 2, 3, 2, 0x6474E551
    assert content.startswith(b"\x7fELF")
    assert kind == executable
    assert not {interpreter, dynamic} & {what for what, _ in segments}
    assert not [1 for _, flags in segments if flags & 3 == 3], "both writable and executable"
    assert stack in {what for what, _ in segments}
    assert b"GLIBC" not in content
    assert b"python" not in content


def test_asked_nothing_it_says_who_it_is(place):
    for done in (place.run(None), place.run("")):
        assert (done.returncode, done.stdout) == (0, b"")
        assert done.stderr.startswith(b"netplane: ")
        assert all(version in done.stderr.decode() for version in versions.SUPPORTED)


def test_version_is_answered_without_an_agent_and_without_reading(place):
    reading, writing = os.pipe()
    with place.start("VERSION", stdin=reading) as process:  # nobody writes, nobody closes
        out, err = process.communicate(timeout=SECONDS)
    os.close(reading)
    os.close(writing)
    assert (process.returncode, out, err) == (0, versions.answer(), b"")


def test_version_does_not_ask_the_agent(place):
    handler = Recorder()
    with place.serving(handler):
        assert place.run("VERSION").stdout == versions.answer()
    assert handler.requests == []


# --- with an agent --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [*VERBS, "NONSENSE"])
def test_the_agent_gets_what_the_runtime_said(place, verb):
    handler = Recorder()
    with place.serving(handler):
        done = place.run(verb, ARGS="A=1;B=2")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
    (asked,) = handler.requests
    assert asked.environment == environment(verb, ARGS="A=1;B=2")
    assert (asked.stdin, asked.netns_fd, asked.netns_errno) == (CONFIG, -1, 0)


@pytest.mark.parametrize("code", [0, 1, 11, 255])
@pytest.mark.parametrize("size", [0, 1, 1 << 20])
def test_the_runtime_gets_what_the_agent_said(place, code, size):
    with place.serving(Recorder(answer=lambda _: Reply(code, b"x" * size))):
        done = place.run("ADD")
    assert (done.returncode, done.stdout, done.stderr) == (code, b"x" * size, b"")


@pytest.mark.kernel
def test_the_descriptor_is_the_namespace(place):
    found = []
    handler = Recorder(answer=lambda request: (found.append(os.fstat(request.netns_fd)), Reply(0))[1])
    with Namespace() as namespace, place.serving(handler):
        assert place.run("ADD", NETNS=str(namespace.path)).returncode == 0
        wanted = os.fstat(namespace.fd)
    assert [(each.st_dev, each.st_ino) for each in found] == [(wanted.st_dev, wanted.st_ino)]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handler.requests[0].netns_fd)


@pytest.mark.parametrize("kind", ["missing", "no folder", "too long", "loop", "empty", "pipe", "folder", "file"])
def test_whatever_the_namespace_is_the_agent_is_told(place, kind):
    path = place.folder / "ns"
    wanted = {"missing": errno.ENOENT, "no folder": errno.ENOTDIR, "too long": errno.ENAMETOOLONG, "loop": errno.ELOOP}
    match kind:
        case "no folder":
            path = place.binary / "ns"
        case "too long":
            path = place.folder / ("n" * 5000)
        case "loop":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "file":
            path.write_text("")
    handler = Recorder()
    with place.serving(handler):
        assert place.run("ADD", NETNS="" if kind == "empty" else str(path)).returncode == 0
    (asked,) = handler.requests
    assert asked.netns_errno == wanted.get(kind, 0)
    assert (asked.netns_fd >= 0) == (kind in ("pipe", "folder", "file"))


@pytest.mark.parametrize("size", [0, 1, 65536, STDIN_BYTES])
def test_all_of_standard_input_arrives(place, size):
    content = os.urandom(size)
    handler = Recorder()
    with place.serving(handler):
        assert place.run("ADD", content).returncode == 0
    assert [each.stdin for each in handler.requests] == [content]


def test_standard_input_in_pieces_is_read_to_its_end(place):
    handler = Recorder()
    with place.serving(handler), place.start("ADD") as process:
        for at in range(len(CONFIG)):
            process.stdin.write(CONFIG[at : at + 1])
            process.stdin.flush()
        assert handler.requests == []
        assert process.communicate(timeout=SECONDS)[0] == b"done\n"
    assert [each.stdin for each in handler.requests] == [CONFIG]


def test_more_than_the_limit_is_refused(place):
    handler = Recorder()
    with place.serving(handler):
        told = error(place.run("ADD", b'{"cniVersion": "0.4.0"' + b" " * STDIN_BYTES))
    assert (told["code"], told["cniVersion"]) == (5, "0.4.0")
    assert handler.requests == []


def test_standard_input_that_cannot_be_read_is_an_error_of_its_own(place):
    with place.folder.joinpath("out").open("wb") as unreadable, place.start("ADD", stdin=unreadable) as process:
        out, _ = process.communicate(timeout=SECONDS)
    assert json.loads(out)["code"] == 5


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_without_a_standard_descriptor_nothing_terrible_happens(place, closed):
    with place.serving(Recorder()):
        done = subprocess.run(
            ("/bin/sh", "-c", f'exec "$0" {closed}{"<" if closed == 0 else ">"}&-', str(place.binary)),
            env=environment("ADD"),
            input=CONFIG,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    wanted = {0: {1}, 1: {0, 1, -signal.SIGPIPE}, 2: {0}}  # without an output nobody hears the answer
    assert done.returncode in wanted[closed]
    assert done.stderr == b""


# --- a hostile environment ------------------------------------------------------------------------------------------


def test_nothing_but_the_variables_of_cni_is_passed_on(place):
    handler = Recorder()
    with place.serving(handler):
        more = {"SECRET": "s", "cni_x": "1", "XCNI_Y": "2", "CNI": "3", "CN": "", **{f"N{n}": "x" for n in range(3000)}}
        done = subprocess.run(
            (place.binary,), env=environment("ADD") | more, input=b"", capture_output=True, timeout=SECONDS, check=False
        )
    assert done.returncode == 0
    assert handler.requests[0].environment == environment("ADD")


def test_no_variable_says_where_the_agent_is(place):
    handler = Recorder()
    more = {"NETPLANE_SOCKET": "/nowhere", "CNI_SOCKET": "/nowhere", "PYTHONPATH": "/nowhere", "LD_PRELOAD": "/nowhere"}
    with place.serving(handler):
        done = subprocess.run(
            (place.binary,), env=environment("ADD") | more, input=b"", capture_output=True, timeout=SECONDS, check=False
        )
    assert (done.returncode, done.stderr, len(handler.requests)) == (0, b"", 1)


@pytest.mark.parametrize("value", ["", "a\nb", 'q"uote', "\\", "%s%n", "../../etc", "ü", "x" * 120_000, "a=b=c"])
def test_a_value_arrives_as_it_is(place, value):
    handler = Recorder()
    with place.serving(handler):
        assert place.run("ADD", CONTAINERID=value, ARGS=value).returncode == 0
    assert {handler.requests[0].environment[name] for name in ("CNI_CONTAINERID", "CNI_ARGS")} == {value}


def test_bytes_that_are_no_text_arrive_as_python_would_have_them(place):
    handler = Recorder()
    with place.serving(handler):
        assert place.run("ADD", ARGS=b"\xff\xfe").returncode == 0
    assert os.fsencode(handler.requests[0].environment["CNI_ARGS"]) == b"\xff\xfe"


def test_too_much_of_it_is_refused(place):
    handler = Recorder()
    with place.serving(handler):
        told = error(place.run("ADD", A="x" * 120_000, B="x" * 120_000, C="x" * 120_000))
    assert told["code"] == 4
    assert handler.requests == []


@pytest.mark.parametrize("value", ["../x", "/etc/passwd", 'a"b', "x" * 5000, "\n"])
def test_no_value_of_it_gets_into_a_file_name_or_an_error(place, value):
    assert place.run("DEL", CONTAINERID=value, IFNAME=value, NETNS=value).returncode == 0
    ((name, kept),) = spool.take(place.spool)
    assert kept.environment["CNI_CONTAINERID"] == value
    assert spool.spooled_at(name) > 0
    told = error(place.run(value))
    assert set(told) == {"cniVersion", "code", "msg", "details"}


# --- without an agent -----------------------------------------------------------------------------------------------


@pytest.fixture(params=["no socket", "no folder", "nobody listens", "a file"])
def down(place, request):
    match request.param:
        case "no folder":
            place.install(socket=place.folder / "nowhere" / "cni.sock")
        case "nobody listens":
            place.listen().close()
        case "a file":
            place.socket.write_text("")
    return place


@pytest.mark.parametrize(("verb", "code"), WITHOUT_AGENT)
def test_without_an_agent_it_says_so(down, verb, code):
    told = error(down.run(verb))
    assert (told["code"], told["cniVersion"]) == (code, "1.0.0")
    if code != 4:
        assert "cni.sock (errno " in told["details"]
    assert not down.spool.exists()


@pytest.mark.parametrize("answer", [b"", b"NPR1", b"NPR1\0\0\0\0\x05\0\0\0four", b"HTTP/1.1 400 Bad Request\r\n"])
@pytest.mark.parametrize(("verb", "code"), WITHOUT_AGENT[:5])
def test_an_agent_that_ends_before_it_answered_is_none(place, verb, code, answer):
    with place.answering(lambda connection: (connection.recv(1), connection.sendall(answer))):
        told = error(place.run(verb))
    assert told["code"] == code


@pytest.mark.parametrize("head", [(b"NPR1", 0, (4 << 20) + 1), (b"NPR1", 256, 0), (b"NPR2", 0, 0)])
def test_an_answer_that_is_none_is_not_passed_on(place, head):
    with place.answering(
        lambda connection: (connection.recv(1 << 16), connection.sendall(struct.pack("=4s2I", *head)))
    ):
        told = error(place.run("ADD"))
    assert told["code"] == 11


def test_an_answer_without_reading_counts(place):
    with place.answering(lambda connection: connection.sendall(struct.pack("=4s2I", b"NPR1", 7, 2) + b"no")):
        done = place.run("ADD", b" " * STDIN_BYTES)
    assert (done.returncode, done.stdout) == (7, b"no")


@pytest.mark.parametrize(
    ("stdin", "version"),
    [
        (b'{"cniVersion":"0.3.1","name":"x"}', "0.3.1"),
        (b'{ "name" : "x" ,\n "cniVersion"\t:\r\n "1.1.0" }', "1.1.0"),
        (b'{"prevResult":{"cniVersion":"0.4.0"}}', "0.4.0"),
        (b'{"cniVersion":7,"more":{"cniVersion":"0.2.0"}}', "0.2.0"),
        (b'{"x":"\\"cniVersion\\"","cniVersion":"1.1.0"}', "1.1.0"),
        (b'\0\0"cniVersion":"0.3.0"', "0.3.0"),
        (b'{"cniVersion":"1.0.0\\",\\"code\\":0"}', "1.0.0"),
        (b'{"cniVersion":"' + b"1" * 17 + b'"}', "1.0.0"),
        (b'{"cniVersion":""}', "1.0.0"),
        (b'{"cniVersion":"0.4.0', "1.0.0"),
        (b'"cniVersion"', "1.0.0"),
        (b'"cniVersion" :', "1.0.0"),
        (b'"cniVersion":"', "1.0.0"),
        (b"", "1.0.0"),
        (os.urandom(10_000), "1.0.0"),
    ],
)
def test_the_error_has_the_version_of_the_question(place, stdin, version):
    assert error(place.run("ADD", stdin))["cniVersion"] == version


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_else_at_the_socket_is_no_agent(place):
    place.folder.chmod(0o777)
    script = (
        "import os, socket, sys\n"
        f"os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        "made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); made.bind(sys.argv[1]); made.listen()\n"
        "print('listening', flush=True); print(len(made.accept()[0].recv(1)), flush=True)\n"
    )
    with subprocess.Popen((sys.executable, "-c", script, str(place.socket)), stdout=subprocess.PIPE) as impostor:
        assert impostor.stdout.readline() == b"listening\n"
        told = error(place.run("ADD"))
        assert impostor.stdout.read() == b"0\n", "not one byte of the request was sent"
    assert told["code"] == 11
    assert "somebody who is not root" in told["details"]


# --- DEL without an agent -------------------------------------------------------------------------------------------


def test_a_del_is_kept_for_the_agent(down):
    for container in ("c1", "c1", "c2"):
        done = down.run("DEL", CONTAINERID=container, NETNS="/nowhere")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    kept = list(spool.take(down.spool))
    assert [each.environment["CNI_CONTAINERID"] for _, each in kept] == ["c1", "c1", "c2"]
    assert kept[0][1].environment == environment("DEL", NETNS="/nowhere")
    assert (kept[0][1].stdin, kept[0][1].netns_errno) == (CONFIG, errno.ENOENT)


def test_the_spool_is_roots_alone(place):
    before = os.umask(0)
    try:
        place.run("DEL")
    finally:
        os.umask(before)
    folders = [place.spool, *place.spool.parents][:3]
    assert [each.stat().st_mode & 0o777 for each in folders] == [0o700] * 3
    (file,) = place.spool.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("when", ["at once", "after a byte", "after all", "in the answer"])
def test_a_del_whose_agent_is_killed_is_kept(place, when):
    def die(connection: socket.socket) -> None:
        if when != "at once":
            connection.recv(1 if when == "after a byte" else 1 << 20)
        if when == "in the answer":
            connection.send(b"NPR1\0\0")

    with place.answering(die):
        done = place.run("DEL")
    assert (done.returncode, done.stdout) == (0, b"")
    assert len(list(spool.take(place.spool))) == 1


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"IFNAME": ""}, "CNI_IFNAME"),
        ({"CONTAINERID": "", "IFNAME": ""}, "CNI_CONTAINERID,CNI_IFNAME"),
    ],
)
def test_a_del_of_nothing_is_not_kept(place, given, missing):
    told = error(place.run("DEL", **given))
    assert (told["code"], told["msg"]) == (4, f"required env variables [{missing}] missing")
    assert not place.spool.exists()


@pytest.mark.parametrize("kind", ["writable", "somebody's", "link", "file", "file above"])
def test_a_spool_others_can_write_to_is_not_used(place, kind):
    outside = place.folder / "outside"
    outside.mkdir(mode=0o700)
    place.spool.parent.parent.mkdir()
    if kind == "file above":
        place.spool.parent.write_text("")
    else:
        place.spool.parent.mkdir()
    match kind:
        case "writable":
            place.spool.mkdir()
            place.spool.chmod(0o777)
        case "somebody's":
            place.spool.mkdir(mode=0o700)
            os.chown(place.spool, NOBODY, NOBODY)
        case "link":
            place.spool.symlink_to(outside)
        case "file":
            place.spool.write_text("")
    told = error(place.run("DEL"))
    assert told["code"] == 11
    assert f"in {place.spool} failed (errno " in told["details"]
    assert [*outside.iterdir()] == []


# --- the fallback ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fallback(place):
    script = place.folder / "python"
    script.write_text(
        '#!/bin/sh\necho "$@"; echo "$CNI_COMMAND $CNI_CONTAINERID $OTHER"; cat; echo; readlink /proc/$$/fd/*; exit 3\n'
    )
    script.chmod(0o755)
    place.install(script)
    return place


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("stdin", [b"", CONFIG, b"x" * 300_000], ids=len)
def test_a_fallback_does_the_work(fallback, verb, stdin):
    done = subprocess.run(
        (fallback.binary,),
        env=environment(verb, NETNS="/proc/self/ns/net") | {"OTHER": "kept"},
        input=stdin,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    said = done.stdout.split(b"\n")
    assert said[:2] == [f"-I -m cni {fallback.spool}".encode(), f"{verb} c1 kept".encode()]
    assert said[2] == stdin
    opened = b" ".join(said[3:])
    assert opened.count(b"memfd:") == 1
    assert b"net:[" not in opened
    assert b"socket:" not in opened
    assert done.returncode == 3
    assert not fallback.spool.exists()


def test_a_fallback_is_not_asked_while_an_agent_answers(fallback):
    with fallback.serving(Recorder()):
        assert fallback.run("ADD").stdout == b"done\n"
    assert fallback.run("VERSION").stdout == versions.answer()


def test_a_fallback_is_asked_when_the_agent_is_killed(fallback):
    with fallback.answering(lambda connection: connection.recv(1 << 16)):
        assert fallback.run("ADD").stdout.split(b"\n")[2] == CONFIG


def test_a_fallback_that_is_gone_is_none(place):
    place.install(place.folder / "nowhere")
    assert error(place.run("ADD"))["code"] == 11
    assert place.run("DEL").returncode == 0
    assert len(list(spool.take(place.spool))) == 1


# --- many -----------------------------------------------------------------------------------------------------------


def test_sixty_four_at_once_are_all_served(place):
    handler = Recorder(answer=lambda request: Reply(0, request.environment["CNI_CONTAINERID"].encode()))
    names = [f"c{number}" for number in range(64)]
    with place.serving(handler), ThreadPoolExecutor(64) as pool:
        done = list(pool.map(lambda name: place.run("ADD", CONTAINERID=name).stdout.decode(), names))
    assert done == names


def test_sixty_four_at_once_are_all_kept(place):
    with ThreadPoolExecutor(64) as pool:
        done = list(pool.map(lambda number: place.run("DEL", CONTAINERID=f"c{number}").returncode, range(64)))
    assert done == [0] * 64
    assert {each.environment["CNI_CONTAINERID"] for _, each in spool.take(place.spool)} == {f"c{n}" for n in range(64)}
