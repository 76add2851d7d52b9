"""Who may import whom, and how large things may get. The lists are data: a change of design changes them first."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parent.parent

PURE = ("model", "plan", "programs", "backends")

# Folder -> folders it may import; errors and closing may be imported by all, and each folder imports itself.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "closing": frozenset(),
    "model": frozenset(),
    "plan": frozenset({"model"}),
    "programs": frozenset({"model"}),
    "backends": frozenset({"model", "plan", "programs"}),
    "sources": frozenset({"model", "plan"}),  # plan: sources/options.py turns words into Settings
    "kernel": frozenset({"model", "programs"}),
    # Beside netplane/, not in it. It starts once per container: what it imports is small.
    "cni": frozenset({"model", "programs", "kernel"}),
    # What is wrong between nodes; cni/doctor is about the Pods of one.
    "doctor": frozenset({"model", "plan", "programs", "backends", "kernel", "cni"}),
    "agent": frozenset({"model", "plan", "programs", "backends", "sources", "kernel", "cni"}),
    # The lab runs the real agent on real manifests, and shows the rules a packet met.
    "lab": frozenset({"model", "plan", "backends", "sources", "kernel", "cni"}),
    "cli": frozenset({"model", "plan", "programs", "backends", "sources", "kernel", "agent", "lab", "cni", "doctor"}),
    "__main__": frozenset({"cli"}),
    "__init__": frozenset(),
}

# Package -> the one place it is imported in: a folder, or a module if it is slow or treacherous.
OUTSIDE_HOME: dict[str, str] = {
    "click": "netplane/cli",
    "rich": "netplane/cli/matrix.py",
    "msgspec": "netplane/sources",
    "yaml": "netplane/sources",
    "inotify_simple": "netplane/sources/watch.py",
    "scapy": "netplane/lab/packets.py",
    "iptc": "netplane/kernel/iptables_readback.py",
}
ONLY_ON_USE = frozenset({"rich", "scapy", "iptc"})

# Drivers: what each reads and applies is its own; the order between them is kernel/host.py's.
DRIVERS = frozenset({"iptables", "nftables", "links", "sysctls", "conntrack"})

# Standard modules that touch the world; pure folders have no use for them.
# fmt: off
IMPURE = frozenset({
    "asyncio", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "random", "select", "selectors", "shutil",
    "signal", "socket", "subprocess", "sys", "tempfile", "threading", "time",
})
# fmt: on
IMPURE_CALLS = frozenset(
    {"print", "open", "input", "exec", "eval", "datetime.now", "datetime.utcnow", "date.today", "datetime.today"}
)

LONGEST_FILE, LONGEST_FUNCTION = 400, 60


@dataclass(frozen=True)
class Module:
    """A file of the package. `path` is relative to the checkout, with slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def folder(self) -> str:
        """`plan` of netplane/plan/text.py, `errors` of netplane/errors.py, `cni` of cni/server.py."""
        parts = PurePosixPath(self.path).with_suffix("").parts
        return parts[1] if parts[0] == "netplane" else parts[0]

    @property
    def pure(self) -> bool:
        return self.folder in PURE

    @cached_property
    def imports(self) -> tuple[tuple[str, bool], ...]:
        """Full names of what is imported (`from a import b`: a.b), and whether only on use or for type checking."""
        later = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or _only_for_types(node)
            for inner in ast.walk(node)
        }
        return tuple((name, id(node) in later) for node in ast.walk(self.tree) for name in _names(node))


def _only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield from (f"{module}.{alias.name}" for alias in node.names)


MODULES = [
    Module(path.relative_to(ROOT).as_posix(), path.read_text())
    for package in ("cni", "netplane")
    for path in sorted((ROOT / package).rglob("*.py"))
]
every_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.path)


# --- the rules: each takes a module and tells what is wrong with it ---------------------------------------------------


def folders_crossed(module: Module) -> Iterator[str]:
    """Imports of folders that are not in the list."""
    allowed = MAY_IMPORT.get(module.folder)
    if allowed is None:
        yield f"{module.path}: folder {module.folder} is not in MAY_IMPORT"
        return
    for name, _ in module.imports:
        parts = name.split(".")
        if name.startswith("."):
            yield f"{module.path}: relative import {name}; say the whole name"
        elif parts[0] == "netplane" and len(parts) > 1 and parts[1] in MAY_IMPORT:
            yield from _crossing(module, parts[1], allowed)
        elif parts[0] == "cni":
            yield from _crossing(module, "cni", allowed)


def _crossing(module: Module, other: str, allowed: frozenset[str]) -> Iterator[str]:
    if other not in {module.folder, "errors", "closing"} and other not in allowed:
        yield f"{module.path}: {module.folder} may not import {other}"


def sideways(module: Module) -> Iterator[str]:
    """One backend importing another, or one driver another."""
    parts = PurePosixPath(module.path).with_suffix("").parts
    for name, _ in module.imports:
        to = name.split(".")
        if to[:2] == ["netplane", "backends"] and parts[1:3] not in (("backends", "registry"), ("backends", to[2])):
            inside = (ROOT / "netplane" / "backends" / to[2]).is_dir()
            if parts[1] == "backends" and (inside or to[2] == "registry"):
                yield f"{module.path}: {parts[2]} imports {to[2]}"
        if to[:2] == ["netplane", "kernel"] and parts[1] == "kernel" and parts[2] in DRIVERS:
            yield from (
                f"{module.path}: driver {parts[2]} imports {other}"
                for other in to[2:]
                if other in DRIVERS - {parts[2]} or other == "host"
            )


def strangers(module: Module) -> Iterator[str]:
    """Outside packages that are not in the list, away from home, or imported too early."""
    for name, later in module.imports:
        package = name.split(".")[0]
        if package in sys.stdlib_module_names or package in ("cni", "netplane", "", "__future__"):
            continue
        home = OUTSIDE_HOME.get(package)
        if home is None:
            yield f"{module.path}: {package} is not in OUTSIDE_HOME"
        elif module.path != home and not module.path.startswith(f"{home}/"):
            yield f"{module.path}: {package} is imported in {home} only"
        elif package in ONLY_ON_USE and not later:
            yield f"{module.path}: {package} is slow: import it where it is used"


def impurities(module: Module) -> Iterator[str]:
    """What a pure module must not touch: clock, files, sockets, environment, logging, standard output."""
    for name, _ in module.imports:
        if name.split(".")[0] in IMPURE:
            yield f"{module.path}: a pure folder imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and (called := ast.unparse(node.func)) in IMPURE_CALLS:
            yield f"{module.path}:{node.lineno}: a pure folder calls {called}"


def too_large(module: Module) -> Iterator[str]:
    """Files and functions beyond the limits. A file may say in its first paragraph why it is longer."""
    lines = len(module.text.splitlines())
    first = (ast.get_docstring(module.tree) or "").split("\n\n")[0]
    if lines > LONGEST_FILE and "lines" not in first:
        yield f"{module.path}: {lines} lines, and the first paragraph does not say why so many"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > LONGEST_FUNCTION:
                yield f"{module.path}:{node.lineno}: {node.name} has {length} lines"


def unpromised(module: Module) -> Iterator[str]:
    """Modules, public classes and public functions without a docstring."""
    if ast.get_docstring(module.tree) is None:
        yield f"{module.path}: no docstring"
    for node in module.tree.body:
        named = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if named and not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield f"{module.path}:{node.lineno}: {node.name} has no docstring"


def unfinished(module: Module) -> Iterator[str]:
    """Words of unfinished work."""
    for number, line in enumerate(module.text.splitlines(), 1):
        if _UNFINISHED.search(line):
            yield f"{module.path}:{number}: {line.strip()}"


_UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|HACK|for now)\b|NotImplementedError")


# --- netplane keeps them ----------------------------------------------------------------------------------------------


@every_module
def test_folders_import_only_what_the_list_allows(module):
    assert list(folders_crossed(module)) == []


@every_module
def test_backends_and_drivers_do_not_import_each_other(module):
    assert list(sideways(module)) == []


@every_module
def test_outside_packages_are_imported_at_home_only_and_slow_ones_on_use(module):
    assert list(strangers(module)) == []


@pytest.mark.parametrize("module", [each for each in MODULES if each.pure], ids=lambda module: module.path)
def test_pure_folders_touch_nothing(module):
    assert list(impurities(module)) == []


@every_module
def test_files_and_functions_are_short(module):
    assert list(too_large(module)) == []


@every_module
def test_modules_and_public_names_have_docstrings(module):
    assert list(unpromised(module)) == []


@every_module
def test_nothing_is_unfinished(module):
    assert list(unfinished(module)) == []


def test_every_folder_exists_and_every_home_is_used():
    folders = {module.folder for module in MODULES}
    assert folders == MAY_IMPORT.keys()
    used = {name.split(".")[0] for module in MODULES for name, _ in module.imports}
    assert OUTSIDE_HOME.keys() <= used


def test_every_driver_named_here_exists():
    assert {Path(module.path).stem for module in MODULES if module.folder == "kernel"} >= DRIVERS


# --- and the rules can fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (folders_crossed, "netplane/plan/bad.py", "from netplane.kernel import command"),
        (folders_crossed, "netplane/plan/bad.py", "import netplane.programs.nftables"),
        (folders_crossed, "netplane/plan/bad.py", "from netplane import cli"),
        (folders_crossed, "netplane/plan/bad.py", "def f():\n    from netplane.sources import decode"),
        (folders_crossed, "netplane/plan/bad.py", "from ..kernel import command"),
        (folders_crossed, "netplane/newcomer/bad.py", ""),
        (folders_crossed, "netplane/kernel/bad.py", "from cni.config import Mode"),
        (folders_crossed, "cni/bad.py", "from netplane.plan.settings import Settings"),
        (strangers, "cni/bad.py", "import click"),
        (sideways, "netplane/backends/ipvs/bad.py", "from netplane.backends.nftables.layout import WORDS"),
        (sideways, "netplane/backends/nftables/bad.py", "from netplane.backends.registry import BACKENDS"),
        (sideways, "netplane/backends/backend.py", "from netplane.backends.nftables import NFTABLES"),
        (sideways, "netplane/kernel/links.py", "from netplane.kernel.nftables import NftablesDriver"),
        (sideways, "netplane/kernel/links.py", "from netplane.kernel import conntrack"),
        (sideways, "netplane/kernel/nftables.py", "from netplane.kernel.host import Host"),
        (strangers, "netplane/plan/bad.py", "import requests"),
        (strangers, "netplane/sources/bad.py", "import click"),
        (strangers, "netplane/lab/bad.py", "def f():\n    from scapy.all import IP"),
        (strangers, "netplane/lab/packets.py", "from scapy.layers.inet import IP"),
        (impurities, "netplane/plan/bad.py", "import time"),
        (impurities, "netplane/plan/bad.py", "from os import environ"),
        (impurities, "netplane/plan/bad.py", "def f():\n    import logging"),
        (impurities, "netplane/plan/bad.py", "print(1)"),
        (impurities, "netplane/plan/bad.py", "from datetime import datetime\nnow = datetime.now()"),
        (impurities, "netplane/plan/bad.py", "open('/etc/hosts')"),
        (too_large, "netplane/plan/bad.py", "x = 1\n" * 401),
        (too_large, "netplane/plan/bad.py", "class A:\n def f():\n" + "  x = 1\n" * 60),
        (unpromised, "netplane/plan/bad.py", "x = 1"),
        (unpromised, "netplane/plan/bad.py", '"""M."""\nclass A: pass'),
        (unpromised, "netplane/plan/bad.py", '"""M."""\ndef f(): pass'),
        (unfinished, "netplane/plan/bad.py", "x = 1  # TO" + "DO"),
        (unfinished, "netplane/plan/bad.py", "raise NotImplementedError"),
    ],
)
def test_a_rule_finds_what_breaks_it(rule, path, text):
    assert len(list(rule(Module(path, text)))) == 1


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (folders_crossed, "netplane/plan/good.py", "from netplane.errors import Problem"),
        (folders_crossed, "netplane/plan/good.py", "from netplane.plan.plan import Plan"),
        (sideways, "netplane/backends/ipvs/good.py", "from netplane.backends.backend import Backend"),
        (sideways, "netplane/backends/ipvs/good.py", "from netplane.backends.ipvs.layout import x"),
        (sideways, "netplane/backends/registry.py", "from netplane.backends.nftables import NFTABLES"),
        (sideways, "netplane/kernel/host.py", "from netplane.kernel.nftables import NftablesDriver"),
        (folders_crossed, "cni/good.py", "from cni.config import Mode\nfrom netplane.kernel.links import Links"),
        (strangers, "netplane/lab/packets.py", "def f():\n    from scapy.layers.inet import IP"),
        (too_large, "netplane/plan/good.py", '"""Of many lines: a table."""\n' + "x = 1\n" * 400),
        (too_large, "netplane/plan/good.py", "def f():\n" + "  x = 1\n" * 59),
        (unpromised, "netplane/plan/good.py", '"""M."""\ndef _f(): pass'),
    ],
)
def test_a_rule_allows_what_is_fine(rule, path, text):
    assert list(rule(Module(path, text))) == []
