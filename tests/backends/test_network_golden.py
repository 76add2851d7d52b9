"""The texts in `network_golden/` are what is spelled: whoever changes the spelling shows it."""

from __future__ import annotations

import pytest
from network_golden import FOLDER, golden_texts

TEXTS = golden_texts()


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_is_as_it_was(name):
    assert (FOLDER / name).read_text() == TEXTS[name], "if that is right: python tests/backends/network_golden.py"


def test_there_is_no_other_text():
    assert {path.name for path in FOLDER.iterdir()} == TEXTS.keys()


def test_equal_plans_give_equal_bytes():
    assert golden_texts() == TEXTS
