"""What the documents show is what the code does."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```nft (?P<case>[a-z0-9-]+)\n(?P<lines>.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#]+)(?:#[^)]*)?\)")

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SHOWN = [
    (page.name, match["case"], line)
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
    for line in match["lines"].splitlines()
]


def test_the_page_of_the_nftables_backend_shows_rules():
    assert {page for page, _, _ in SHOWN} == {"nftables.md"}


@pytest.mark.parametrize(("page", "case", "line"), SHOWN)
def test_a_rule_on_a_page_is_in_its_case(page, case, line):
    golden = (ROOT / "tests" / "cases" / case / "nftables.txt").read_text().splitlines()
    assert line in {re.sub(r' comment "[0-9a-f]{8}"$', "", each) for each in golden}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page):
    targets = [match["target"] for match in LINK.finditer(page.read_text())]
    missing = [each for each in targets if "://" not in each and not (page.parent / each).exists()]
    assert not missing
