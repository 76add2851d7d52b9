"""What the documents show is what the code does."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(?P<kind>nft|iptables) (?P<case>[a-z0-9-]+)\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHOWN = [
    (page.name, match["kind"], match["case"], line)
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
    for line in match["lines"].splitlines()
]


GOLDEN = {"nft": "nftables.txt", "iptables": "iptables.txt"}


def test_the_pages_of_the_backends_show_rules():
    assert {(page, kind) for page, kind, _, _ in SHOWN} == {("nftables.md", "nft"), ("iptables.md", "iptables")}


@pytest.mark.parametrize(("page", "kind", "case", "line"), SHOWN)
def test_a_rule_on_a_page_is_in_its_case(page, kind, case, line):
    golden = (ROOT / "tests" / "cases" / case / GOLDEN[kind]).read_text().splitlines()
    assert line in {re.sub(r' comment "[0-9a-f]{8}"$', "", each) for each in golden}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    targets = [match["target"] for match in LINK.finditer(page.read_text())]
    missing = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert not missing
