"""What a Service asks for, how old it is, and whether a Node is ready."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from manifest_objects import NODE, SERVICE, bent, decoded, problems_of, value_of

from netplane.model.service import LOAD_BALANCER_ADDRESS_ANNOTATION, Asked

FIELD = f"metadata.annotations[{LOAD_BALANCER_ADDRESS_ANNOTATION}]"


def balanced(*changes: tuple[str, object]):
    return bent(SERVICE, ("spec.type", "LoadBalancer"), *changes)


def annotated(value: object):
    return balanced(("metadata.annotations", {LOAD_BALANCER_ADDRESS_ANNOTATION: value}))


@pytest.mark.parametrize(
    ("manifest", "asked"),
    [
        (balanced(), None),
        (balanced(("spec.loadBalancerIP", "")), None),
        (balanced(("spec.loadBalancerIP", "203.0.113.5")), Asked("spec.loadBalancerIP", (ip_address("203.0.113.5"),))),
        (annotated("203.0.113.5"), Asked(FIELD, (ip_address("203.0.113.5"),))),
        (
            annotated("2001:db8::5 , 203.0.113.5"),
            Asked(FIELD, (ip_address("2001:db8::5"), ip_address("203.0.113.5"))),
        ),
        (bent(SERVICE, ("spec.loadBalancerIP", "203.0.113.5")), None),
    ],
    ids=["nothing", "blank", "field", "annotation", "both families", "another type"],
)
def test_what_a_service_asks_for(manifest, asked):
    assert not problems_of(manifest)
    assert value_of(manifest).asked == asked


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("203.0.113.5, 203.0.113.6", "has two addresses of one family"),
        ("any", "'any' is not an IP address"),
        ("", "is missing; write an IP address"),
        ("127.0.0.1", "is a loopback address"),
        (5, "'5' is not an IP address"),
    ],
)
def test_who_asks_for_nonsense_still_asks_and_the_service_is_used(value, why):
    (said,) = problems_of(annotated(value))
    assert said.startswith(f"x.yaml#1: Service shop/web: {FIELD}: ")
    assert why in said
    (found,) = decoded(annotated(value)).objects.values()
    assert found.value.asked == Asked(FIELD, ())


def test_the_annotation_counts_more_than_the_field():
    manifest = balanced(
        ("metadata.annotations", {LOAD_BALANCER_ADDRESS_ANNOTATION: "203.0.113.5"}),
        ("spec.loadBalancerIP", "203.0.113.6"),
    )
    (said,) = problems_of(manifest)
    assert "spec.loadBalancerIP: is ignored" in said
    (found,) = decoded(manifest).objects.values()
    assert found.value.asked.addresses == (ip_address("203.0.113.5"),)


@pytest.mark.parametrize(
    ("text", "created"),
    [
        ("2026-01-31T23:59:59Z", "2026-01-31T23:59:59Z"),
        (None, ""),
        ("yesterday", ""),
        ("2026-01-31T23:59:59+01:00", ""),
    ],
)
def test_how_old_it_is(text, created):
    assert value_of(bent(SERVICE, ("metadata.creationTimestamp", text))).created == created


def test_its_class():
    assert value_of(balanced(("spec.loadBalancerClass", "example.com/lb"))).load_balancer_class == "example.com/lb"


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        (None, True),
        ([], True),
        ([{"type": "DiskPressure", "status": "False"}], True),
        ([{"type": "Ready", "status": "True"}], True),
        ([{"type": "Ready", "status": "False"}], False),
        ([{"type": "DiskPressure", "status": "True"}, {"type": "Ready", "status": "Unknown"}], False),
    ],
)
def test_whether_a_node_is_ready(conditions, ready):
    assert value_of(bent(NODE, ("status.conditions", conditions))).ready is ready
