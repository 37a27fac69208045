"""The state file of `make services-up`: one written by an earlier version goes on."""

from pathlib import Path

from tools.services.background import Background, Entry
from tools.services.cache import Cache
from tools.services.ports import choose
from tools.services.servers.kafka import Kafka


def test_ports_and_secrets_that_a_server_needs_only_now_are_added_and_the_others_kept(tmp_path: Path) -> None:
    background = Background(tmp_path, Cache(tmp_path / "cache"))
    state = {"kafka": Entry("elsewhere", choose(["main", "controller"]), {"password": "kept"})}
    entry = background._entry(state, Kafka(), tmp_path / "home")
    assert entry.ports.keys() == set(Kafka.port_names)
    assert entry.credentials["password"] == "kept"
    assert entry.credentials["key_password"]
    ports = dict(entry.ports)
    assert background._entry(background._read(), Kafka(), tmp_path / "home").ports == ports, "and then they stay"
