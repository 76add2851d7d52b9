"""Which version of the specification comes with which command: the reference library's cases (pkg/skel)."""

import json

import conformance
import pytest

from cni import versions
from cni.failure import Code, Failure
from cni.request import Command


def refused(command: Command, version: str) -> Failure:
    with pytest.raises(Failure) as raised:
        versions.allow(command, version)
    return raised.value


def test_the_answer_names_every_version():
    said = json.loads(versions.answer())
    assert conformance.of_version_answer(said) == []
    assert said == {"cniVersion": "1.1.0", "supportedVersions": list(conformance.VERSIONS)}
    assert versions.answer().endswith(b"\n")


@pytest.mark.parametrize("version", conformance.VERSIONS)
@pytest.mark.parametrize("command", [Command.ADD, Command.DEL])
def test_add_and_del_come_with_every_version(command, version):
    versions.allow(command, version)


@pytest.mark.parametrize(
    ("command", "since"), [(Command.CHECK, "0.4.0"), (Command.GC, "1.1.0"), (Command.STATUS, "1.1.0")]
)
@pytest.mark.parametrize("version", conformance.VERSIONS)
def test_skel_when_cni_version_is_less_than_needed_immediately_returns_a_useful_error(command, since, version):
    if conformance.VERSIONS.index(version) >= conformance.VERSIONS.index(since):
        versions.allow(command, version)
    else:
        failure = refused(command, version)
        assert (failure.code, failure.msg) == (
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {command.value}",
        )


@pytest.mark.parametrize("version", ["9.8.7", "1.0", "1.0.1", "1.1.0 ", "v1.0.0", "adsfsadf", "1.1.0-rc1"])
def test_skel_incompatible_cni_versions(version):
    failure = refused(Command.ADD, version)
    assert (failure.code, failure.msg) == (Code.INCOMPATIBLE_VERSION, "incompatible CNI versions")
    assert failure.details.startswith(f'config is "{version}", plugin supports ["0.1.0",')
    assert '"1.1.0"]' in failure.details


@pytest.mark.parametrize("command", [Command.CHECK, Command.GC, Command.STATUS])
def test_skel_when_the_config_has_a_bad_version_immediately_returns_a_useful_error(command):
    assert refused(command, "adsfsadf").code is Code.DECODING_FAILURE
    assert refused(command, "0.2.9").msg == f"config version does not allow {command.value}"
    assert refused(command, "7").msg == "incompatible CNI versions"
    assert refused(command, "1" * 5000).code is Code.DECODING_FAILURE
