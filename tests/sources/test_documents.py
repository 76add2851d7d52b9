"""Bytes -> plain values: YAML's core schema, doubled keys, broken parts, and texts made to hurt."""

from __future__ import annotations

import pytest

from netplane.sources.decode import decode
from netplane.sources.documents import BadText, Document, Doubled, documents_of


def documents(text: str | bytes, name: str = "x.yaml") -> list[Document]:
    return [*documents_of(name, text.encode() if isinstance(text, str) else text)]


def value_of(text: str) -> object:
    (document,) = documents(text)
    return document.value


def reason(text: str | bytes, name: str = "x.yaml") -> str:
    (document,) = documents(text, name)
    assert isinstance(document.value, BadText)
    return f"{document.value.line}: {document.value.why}"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("on", "on"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("off", "off"), ("true", True), ("False", False)),
        *(("'true'", "true"), ("80", 80), ("'80'", "80"), ("-1", -1), ("+5", 5), ("0", 0), ("0080", "0080")),
        *(("0x50", 80), ("0o17", 15), ("1_000", "1_000"), ("12:30", "12:30"), ("1.5", 1.5), ("1e3", 1000.0)),
        *((".5", 0.5), ("1.2.3", "1.2.3"), ("2026-01-01", "2026-01-01"), ("2026-01-01T00:00:00Z",) * 2),
        *(("~", None), ("null", None), ("''", ""), ("!!str 80", "80"), ("!!int 80", 80), ("=", "="), ("1" * 99,) * 2),
        *(("fd00::1", "fd00::1"), ("|\n  a\n  b\n", "a\nb\n"), ("Infinity", "Infinity"), (".inf", ".inf")),
    ],
)
def test_plain_words_mean_what_the_core_schema_says(text, value):
    found = value_of(f"key: {text}\n")
    assert found == {"key": value}
    assert type(found["key"]) is type(value)


def test_keys_are_strings_whatever_they_look_like():
    assert value_of("{on: 1, 80: 2, null: 3, true: 4}") == {"on": 1, "80": 2, "null": 3, "true": 4}


def test_anchors_and_merge_keys_are_understood():
    text = "base: &b {a: 1, b: 2}\nmade: {<<: *b, b: 3}\nlist: {<<: [*b, {c: 4}]}\n"
    assert value_of(text) == {"base": {"a": 1, "b": 2}, "made": {"a": 1, "b": 3}, "list": {"a": 1, "b": 2, "c": 4}}


def test_documents_are_counted_without_the_empty_ones():
    text = "# a comment\n---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n--- {c: 3}\n"
    assert [(one.number, one.value) for one in documents(text)] == [
        (1, {"a": 1}),
        (2, {"b": 2}),
        (3, {"c": 3}),
    ]


def test_a_directive_and_a_byte_order_mark_do_no_harm():
    assert [one.value for one in documents("\ufeff%YAML 1.1\n---\na: 1\r\n---\r\nb: 2\r\n")] == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "---\n", "---\n# a\n---\n...\n"])
def test_nothing_is_no_document(text):
    assert not documents(text)


def test_a_broken_document_does_not_hide_the_others_and_its_line_is_told():
    one, broken, other = documents("a: 1\n---\nb:\n  - [\n---\nc: 3\n")
    assert (one.value, other.value, other.number) == ({"a": 1}, {"c": 3}, 3)
    assert isinstance(broken.value, BadText)
    assert broken.value.line in (4, 5)
    assert broken.value.why.startswith("is not YAML: ")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: *b", "1: alias *b names nothing"),
        ("a: &a [*a]", "1: alias *a names nothing, or something it is part of"),
        ("? [a]\n: 1", "1: a mapping key must be a word"),
        ("a: !!python/object:os.system {}", "1: tag tag:yaml.org,2002:python/object:os.system is not read"),
        ("a: !secret x", "1: tag !secret does not go with its value"),
        ("a: !!int x", "does not go with its value"),
        ("a: {<<: 5}", "1: '<<' must name a mapping"),
        ("a: 1\n...\nb: 2\n", "is not YAML: did not find expected <document start>"),
        ("a: 'x", "is not YAML: found unexpected end of stream"),
        ("\ta: 1", "is not YAML: found character that cannot start any token"),
        (b"a: \xff", "1: is not UTF-8 text"),
        ("a: \x07", "is not YAML: control characters are not allowed"),
        ("- " * 50_000, "is nested more than 100 levels deep"),
        ("[" * 50_000, "is nested more than 100 levels deep"),
        ("{a: " * 50_000, "is nested more than 100 levels deep"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_cannot_be_read_gives_a_line_and_a_reason(text, said):
    assert said in reason(text)


def test_aliases_that_multiply_are_stopped():
    rows = "".join(f"k{n}: &k{n} [{','.join([f'*k{n - 1}'] * 9)}]\n" for n in range(1, 30))
    assert "aliases expand to more than" in reason(f"k0: &k0 [x]\n{rows}")


def test_a_doubled_key_is_noticed_with_its_line():
    (document,) = documents("a:\n  b: 1\n  c: 2\n  b: 3\n")
    assert document.doubled
    inner = document.value["a"]
    assert isinstance(inner, Doubled)
    assert (inner.key, inner.line, inner) == ("b", 4, {"b": 3, "c": 2})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": ', "1: is not JSON: Expecting value"),
        ('{"a": 1}\n{"b": 2}', "2: is not JSON: Extra data"),
        ('{"a": NaN}', "is not JSON: NaN is not a number"),
        ("[" * 200_000, "is nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "is not JSON: Exceeds the limit"),
        (b'{"a": "\xff"}', "is not UTF-8 text"),
        (rb'{"a": "\ud800"}', "is not JSON: \\ud800 to \\udfff is half a character"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_cannot_be_read_gives_a_reason(text, said):
    assert said in reason(text, "x.json")


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.96.0.10
  ports:
    - {port: 80, %s}
"""


def test_an_object_with_a_doubled_key_is_refused_and_named_with_the_path():
    result = decode(
        "x.yaml", (SERVICE % "port: 81" + "---\n" + SERVICE.replace("web", "ok") % "protocol: TCP").encode()
    )
    assert [str(key) for key in result.objects] == ["Service default/ok"]
    assert [str(key) for key in result.refused] == ["Service default/web"]
    assert str(result.problems[0]) == (
        "x.yaml#1: Service default/web: spec.ports[0]: key 'port' appears twice (line 8); keep one"
    )


def test_a_doubled_key_in_json_spoils_only_its_object():
    text = b"""{"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": {"a": "b", "a": "c"}}},
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}]}"""
    result = decode("x.json", text)
    assert [str(key) for key in result.objects] == ["Node n2"]
    assert str(result.problems[0]) == "x.json#1: Node n1: metadata.labels: key 'a' appears twice; keep one"


def test_a_doubled_key_under_deep_nesting_is_found_all_the_same():
    deep = '{"a": ' * 900 + '{"b": 1, "b": 2}' + "}" * 900
    text = f'{{"apiVersion": "v1", "kind": "Node", "metadata": {{"name": "n1"}}, "x": {deep}}}'
    (problem,) = decode("x.json", text.encode()).problems
    assert problem.why == "key 'b' appears twice; keep one"
