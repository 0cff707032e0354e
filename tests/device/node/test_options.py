from pathlib import Path

import pytest

from medkd.device.node.options import Peer, node_options
from medkd.errors import ConfigError

GIVEN = {"spool": Path("spool"), "peer": Peer("PACS", "10.0.0.1", 104)}


def test_any_option_may_be_set_and_keeps_its_type():
    made = node_options(GIVEN, ["quiet_s=2.5", "health_port=0", "strict=true", "spool_gib=0.5"])
    assert (made.quiet_s, made.health_port, made.strict) == (2.5, 0, True)
    assert made.spool_bytes == 2**29


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "bedside.example"])
def test_other_machines_are_listened_to_only_by_name(host):
    with pytest.raises(ConfigError, match="lets other machines call"):
        node_options(GIVEN | {"host": host}, [])
    assert node_options(GIVEN | {"host": host, "allow": ("CT1",)}, []).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_loopback_may_be_open_to_all_on_this_machine(host):
    assert node_options(GIVEN | {"host": host}, []).allow == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quiet_s", "write KEY=VALUE"),
        ("quite_s=2", "quite_s.*known: spool, peer"),
        ("port=99999", "port"),
        ("title=A TITLE THAT IS TOO LONG", "title"),
        ("quiet_s=-1", "quiet_s"),
        ("allow=[A", r"--set allow=\[A: the value is not valid YAML"),
        ("keep_s=2024-13-01", "not valid YAML: month"),
    ],
)
def test_what_is_no_option_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        node_options(GIVEN, [override])


@pytest.mark.parametrize(
    "text",
    [
        *("PACS", "PACS@host", "PACS@host:0", "PACS@host:70000", "@h:1"),
        *("PACS@a..b:104", "PACS@...:104", f"PACS@{'a' * 64}.org:104"),
    ],
)
def test_what_is_no_peer_is_refused(text):
    with pytest.raises(ConfigError, match="give TITLE@HOST:PORT"):
        Peer.parse(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "pacs.hospital.example", "krankenhäuser.de"])
def test_a_peer_may_be_at_an_address_or_a_name(host):
    assert Peer.parse(f"PACS@{host}:104") == Peer("PACS", host, 104)
