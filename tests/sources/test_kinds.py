"""Which objects are read: names, kinds, lists; and what is said about the others."""

from __future__ import annotations

import json

import pytest
from manifest_objects import ALL, ENDPOINTS, NODE, POD, SERVICE, SLICE, bent, decoded, problems_of, text, value_of

from netplane.sources.decode import decode

LONG = "a" * 4000
LIST_OF_ONE = {"apiVersion": "v1", "kind": "ServiceList", "items": [SERVICE]}


@pytest.mark.parametrize("base", ALL, ids=lambda base: base["kind"])
@pytest.mark.parametrize(
    "name",
    [LONG, 'a"b', "a'b", "a\nb", "a;b", "a{b}", "$(reboot)", "`id`", "a b", "\u202egnp", "-j", "A", "a_b", "", None, 5],
)
def test_hostile_names_are_refused_in_one_short_line_that_shows_them_harmlessly(base, name):
    (said,) = problems_of(bent(base, ("metadata.name", name)))
    assert said.startswith(f"x.yaml#1: {base['kind']} ")
    assert "metadata.name: " in said
    assert said.isprintable()
    assert len(said) < 300


@pytest.mark.parametrize("base", [SERVICE, SLICE, ENDPOINTS, POD], ids=lambda base: base["kind"])
def test_hostile_namespaces_are_refused(base):
    assert "metadata.namespace: " in problems_of(bent(base, ("metadata.namespace", "a;b\u202e")))[0]


@pytest.mark.parametrize(
    "other",
    [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": 5}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}},
        {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "s"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"},
        {"apiVersion": "example.com/v1", "kind": "Servic", "items": 7},
        {"apiVersion": "v1", "kind": "ConfigMapList", "items": [{"metadata": {"name": "c"}}]},
    ],
    ids=lambda other: other["kind"],
)
def test_kinds_that_are_not_ours_are_passed_over_in_silence(other):
    assert not problems_of(other)
    assert not decoded(other).objects


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"kind": "Service"}, "apiVersion: is missing"),
        ({"apiVersion": "v1"}, "kind: is missing"),
        ({"apiVersion": 1, "kind": "Service"}, "is missing or no string"),
        ({"apiVersion": "v1", "kind": "service"}, "does not exist; did you mean Service?"),
        ({"apiVersion": "v1", "kind": "Endpoint"}, "does not exist; did you mean Endpoints?"),
        ({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointsSlice"}, "did you mean EndpointSlice?"),
        ({"apiVersion": "v1", "kind": "Zzz\n" * 1000}, "does not exist; correct the kind"),
        ({"apiVersion": "v2", "kind": "Service"}, "is not read; write apiVersion: v1"),
        (["Service"], "is not an object"),
        ("Service", "is not an object"),
        (7, "is not an object"),
    ],
)
def test_what_says_no_kind_or_a_misspelt_one_is_a_problem(head, said):
    (problem,) = problems_of(head)
    assert said in problem
    assert decoded(head).unknown


def test_a_list_inside_a_list_is_not_opened_but_told():
    result = decode("x.yaml", text({"apiVersion": "v1", "kind": "List", "items": [LIST_OF_ONE]}).encode())
    assert not result.objects
    assert "x.yaml#1: items[0]: is a 'ServiceList' inside a list" in str(result.problems[0])


@pytest.mark.parametrize("name", ["x.yaml", "x.json"])
def test_lists_are_opened_and_a_bad_item_is_named_by_its_place(name):
    nameless = {"metadata": {}, "spec": {}}
    good = {"metadata": SERVICE["metadata"], "spec": SERVICE["spec"]}
    typed = {"apiVersion": "v1", "kind": "ServiceList", "items": [good, nameless, 3]}
    result = decode(name, json.dumps(typed).encode())
    assert [str(key) for key in result.objects] == ["Service shop/web"]
    assert [str(one) for one in result.problems] == [
        f"{name}#1: Service without a name: metadata.name: is missing; write a name",
        f"{name}#1: items[2]: is not an object; write a mapping with apiVersion, kind and metadata",
    ]
    assert not decode(name, b'{"apiVersion": "v1", "kind": "ServiceList", "items": null}').problems
    assert decode(name, b'{"apiVersion": "v1", "kind": "ServiceList", "items": {}}').unknown


def test_the_same_object_twice_in_a_file_is_used_once_and_told():
    other = bent(SERVICE, ("spec.clusterIP", "10.96.0.99"))
    result = decoded(SERVICE, NODE, other)
    assert [str(found.value.cluster_ips[0]) for key, found in result.objects.items() if key.kind == "Service"] == [
        "10.96.0.10"
    ]
    assert "Service shop/web: is also in document 1, which is used" in str(result.problems[0])


def test_equal_names_and_labels_are_one_object_in_memory():
    one, two = (value_of(bent(SLICE, ("endpoints.0.nodeName", "node-with-a-name"))) for _ in range(2))
    assert one.endpoints[0].node is two.endpoints[0].node
    assert one.endpoints[0].zone_hints is two.endpoints[0].zone_hints
    assert one.ports[0] is two.ports[0]
