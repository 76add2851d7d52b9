"""The annotation that says what becomes of TCP connections to endpoints that are gone."""

from __future__ import annotations

import pytest
from manifest_objects import SERVICE, bent, decoded, problems_of, value_of

from netplane.model.service import REMOVED_ENDPOINTS_ANNOTATION, RemovedEndpoints


def annotated(value):
    return bent(SERVICE, ("metadata.annotations", {REMOVED_ENDPOINTS_ANNOTATION: value, "example.com/other": "1"}))


@pytest.mark.parametrize(
    ("value", "meant"),
    [("reset", RemovedEndpoints.RESET), ("keep", RemovedEndpoints.KEEP), ("", RemovedEndpoints.KEEP)],
)
def test_the_annotation_says_whether_connections_are_reset_or_kept(value, meant):
    assert not problems_of(annotated(value))
    assert value_of(annotated(value)).removed_endpoints is meant


def test_without_it_connections_are_kept():
    assert value_of(SERVICE).removed_endpoints is RemovedEndpoints.KEEP


@pytest.mark.parametrize("value", ["Reset", "resets", True, 5, ["reset"]])
def test_any_other_value_is_a_problem_that_names_object_and_field_and_the_service_is_used(value):
    (said,) = problems_of(annotated(value))
    assert said.startswith("x.yaml#1: Service shop/web: metadata.annotations[netplane.dev/removed-endpoints]: ")
    assert said.endswith("is not known; write one of keep, reset; connections are kept")
    (found,) = decoded(annotated(value)).objects.values()
    assert found.value.removed_endpoints is RemovedEndpoints.KEEP
