"""Manifests in which every Node has its agent's public key for WireGuard, as agents of a cluster publish it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from netplane.errors import InputError
from netplane.plan.network_plan import PUBLIC_KEY_ANNOTATION
from netplane.sources.documents import BadText, documents_of


def with_keys(manifests: Path, keys: Mapping[str, str], into: Path) -> None:
    """Write the objects of a folder into another, Nodes with these keys. Raises InputError for a text that is none."""
    items = [_with_key(each, keys) for path in sorted(manifests.iterdir()) for each in _objects(path)]
    (into / "cluster.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))


def _objects(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix not in (".yaml", ".yml", ".json") or not path.is_file():
        return
    for document in documents_of(path.name, path.read_bytes()):
        value = document.value
        if isinstance(value, BadText):
            raise InputError(f"{path}: cannot be read: line {value.line}: {value.why}")
        plain = json.loads(bytes(value)) if isinstance(value, bytes | bytearray | memoryview) else value
        if isinstance(plain, dict) and plain.get("kind"):
            yield from plain["items"] if plain["kind"] == "List" else (plain,)


def _with_key(item: dict[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    metadata = item.get("metadata") or {}
    if item.get("kind") != "Node" or metadata.get("name") not in keys:
        return item
    annotations = {**(metadata.get("annotations") or {}), PUBLIC_KEY_ANNOTATION: keys[metadata["name"]]}
    return {**item, "metadata": {**metadata, "annotations": annotations}}
