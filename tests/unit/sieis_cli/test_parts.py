import socket

import pytest

from sieis_cli.names import Name
from sieis_cli.parts import PortTakenError, check_ports, describe
from sieis_platform.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(_env_file=None, data_dir=tmp_path)


def _names(described):
    return [part.part.name for part in described]


def test_the_embedded_setting_runs_every_part(settings):
    assert _names(describe(settings, list(Name))) == list(Name)


def test_no_broker_beside_kafka_and_no_mlflow_beside_an_mlflow_server(settings):
    served = settings.model_copy(update={"kafka_bootstrap": "localhost:1", "mlflow_uri": "http://localhost:2"})
    assert set(_names(describe(served, list(Name)))) == set(Name) - {Name.BROKER, Name.MLFLOW}


def test_every_port_names_the_setting_that_moves_it(settings):
    for part in describe(settings, list(Name)):
        if part.port is not None:
            name = part.port_setting.removeprefix("SIEIS_").lower()
            assert getattr(settings, name) == part.port


def test_a_taken_port_is_refused_with_what_to_do(settings):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        parts = describe(settings.model_copy(update={"api_port": port}), [Name.API])
        with pytest.raises(PortTakenError, match=rf"port {port} \(api\) is taken.*SIEIS_API_PORT.*--without api"):
            check_ports(parts)
    check_ports(parts)


def test_no_part_is_ready_while_nothing_runs(settings):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ports = {
        part.port_setting.removeprefix("SIEIS_").lower(): port for part in describe(settings, list(Name)) if part.port
    }
    for part in describe(settings.model_copy(update=ports), list(Name)):
        assert part.part.ready() is False, part.part.name


@pytest.mark.parametrize(
    ("name", "setting"), [(Name.API, "api"), (Name.CONSUMER, "metrics"), (Name.SIMULATOR, "simulator")]
)
def test_a_part_on_another_address_is_asked_and_looked_for_there(settings, name, setting):
    with socket.create_server(("127.0.0.2", 0)) as taken:
        there = {f"{setting}_host": "127.0.0.2", f"{setting}_port": taken.getsockname()[1]}
        (part,) = describe(settings.model_copy(update=there), [name])
        assert part.url.startswith(f"http://127.0.0.2:{part.port}/")
        with pytest.raises(PortTakenError, match=f"port {part.port} .* is taken"):
            check_ports([part])
    check_ports([part])


def test_an_address_this_machine_does_not_have_is_not_called_taken(settings):
    parts = describe(settings.model_copy(update={"api_host": "192.0.2.1"}), [Name.API])  # TEST-NET-1
    with pytest.raises(PortTakenError, match=r"cannot be listened on at 192\.0\.2\.1"):
        check_ports(parts)
