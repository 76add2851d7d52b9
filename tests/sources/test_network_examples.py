"""The files of settings that users copy can be read, and show every mode."""

from dataclasses import fields
from pathlib import Path

import pytest

from netplane.plan.network_settings import (
    Announce,
    Bgp,
    BgpPeer,
    LoadBalancers,
    Mode,
    NetworkSettings,
    Vxlan,
    Wireguard,
)
from netplane.sources.network_options import read_network_settings

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "examples" / "network"
EXAMPLES = sorted(FOLDER.iterdir())


def test_there_is_one_for_each_mode():
    assert {mode.value for mode in Mode} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_read_and_is_what_its_name_says(path):
    settings = read_network_settings(str(path))
    assert settings.cluster_ranges
    if path.stem in {mode.value for mode in Mode}:
        assert settings.mode.value == path.stem


def keys():
    """As a file writes them; those of a part without the part."""
    parts = (NetworkSettings, Vxlan, Wireguard, Bgp, BgpPeer, LoadBalancers)
    names = {field.name for part in parts for field in fields(part)} - {"vxlan", "wireguard", "bgp", "load_balancers"}
    return sorted("as" if name == "asn" else name.replace("_", "-") for name in names)


@pytest.mark.parametrize("key", keys())
def test_the_page_names_every_key_of_the_settings(key):
    page = (ROOT / "docs" / "network.md").read_text().partition("## Settings")[2].partition("## Load balancers")[0]
    assert f"`{key}`" in page or f": {key}`" in page


def test_the_example_of_bgp_shows_reflectors_routers_and_addresses_of_services():
    settings = read_network_settings(str(ROOT / "examples" / "network" / "bgp.yaml"))
    assert settings.bgp.reflectors
    assert len(settings.bgp.peers) == 2
    assert settings.load_balancers.announce is Announce.BGP
