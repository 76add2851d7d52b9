"""An attachment in the journal: every field comes back, and other versions' journals are read."""

import json
import random
from dataclasses import fields

import pytest
from cni_random import attachment

from cni import attachment_json
from cni.attachment import Attachment, AttachmentId, NetnsId
from cni.config import Mode

PLAIN = Attachment(AttachmentId("pods", "c1", "eth0"), Mode.ROUTED, "/run/netns/1", NetnsId(4, 5))


def through_a_file(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("seed", range(300))
def test_every_field_comes_back_exactly(seed):
    made = attachment(random.Random(seed))
    back = attachment_json.decode(through_a_file(attachment_json.encode(made)))
    assert back == made
    for each in fields(Attachment):
        assert type(getattr(back, each.name)) is type(getattr(made, each.name))
    assert hash(back) == hash(made)


def test_random_attachments_have_something_in_every_field():
    defaults = [getattr(PLAIN, each.name) for each in fields(Attachment)]
    made = [attachment(random.Random(seed)) for seed in range(40)]
    for each, default in zip(fields(Attachment), defaults, strict=True):
        assert any(getattr(one, each.name) != default for one in made), each.name


def test_what_has_its_default_takes_no_space():
    assert through_a_file(attachment_json.encode(PLAIN)) == {
        "id": ["pods", "c1", "eth0"],
        "mode": "routed",
        "netns": "/run/netns/1",
        "netns_id": [4, 5, 0],
    }


def test_fields_of_newer_versions_are_passed_over_and_missing_ones_have_their_default():
    value = through_a_file(attachment_json.encode(attachment(random.Random(7))))
    value |= {"invented": {"later": 1}, "bridge": {"name": "br7", "colour": "blue"}}
    value.pop("mtu", None)
    back = attachment_json.decode(value)
    assert (back.mtu, back.bridge.name, back.bridge.hairpin) == (0, "br7", True)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "teleport"},
        {"id": ["pods", "c1"]},
        {"id": "pods/c1/eth0"},
        {"netns_id": [1, "2"]},
        {"mtu": "1500"},
        {"mtu": True},
        {"interface": 1},
        {"mac": "0a:58"},
        {"mac": 5},
        {"addresses": [{"address": "10.0.0.5/64"}]},
        {"addresses": [{"address": 5}]},
        {"addresses": [{}]},
        {"addresses": {"address": "10.0.0.5/24"}},
        {"masquerade_not_to": ["10.0.0.5/8"]},
        {"ports": [{"protocol": "ICMP", "host_port": 1, "container_port": 2}]},
        {"sysctls": [["a", "b", "c"]]},
        {"bridge": []},
        {"delegate": None},
    ],
    ids=str,
)
def test_what_is_no_attachment_is_a_value_error(change):
    with pytest.raises(ValueError, match=r"."):
        attachment_json.decode(through_a_file(attachment_json.encode(PLAIN)) | change)
    for value in (None, [], 5, {}, {"mode": "routed"}):
        with pytest.raises(ValueError, match=r"."):
            attachment_json.decode(value)
