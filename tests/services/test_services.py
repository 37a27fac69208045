"""The servers themselves: each starts, answers, keeps its data over a SIGKILL, and leaves no process behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from sieis_platform.settings import Settings
from tools.services import SERVERS, Instance, Services
from tools.services.errors import PortTakenError
from tools.services.servers import s3
from tools.services.servers.base import NotReadyError
from tools.services.servers.postgres import query
from tools.services.servers.redis import ask

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


# -- one round trip through each protocol ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    write: Callable[[Instance], None]
    read: Callable[[Instance], str]


def produce(kafka: Instance) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.address})
    for made in admin.create_topics([NewTopic("probe", 1, 1)]).values():
        made.result(30)
    producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
    producer.produce("probe", b"kept")
    assert producer.flush(30) == 0


def consume(kafka: Instance) -> str:
    options = {"group.id": "probe", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = Consumer({"bootstrap.servers": kafka.address, **options})
    consumer.subscribe(["probe"])
    try:
        message = consumer.poll(60)
        assert message is not None
        assert message.error() is None
        return message.value().decode()
    finally:
        consumer.close()


def influx_call(influxdb: Instance, path: str, body: str, kind: str) -> httpx.Response:
    headers = {"Authorization": f"Token {influxdb.credentials['token']}", "Content-Type": kind}
    query = {"org": influxdb.credentials["org"], "bucket": influxdb.credentials["bucket"]}
    answer = httpx.post(f"{influxdb.address}/api/v2/{path}", params=query, content=body, headers=headers, timeout=30)
    answer.raise_for_status()
    return answer


def influx_write(influxdb: Instance) -> None:
    influx_call(influxdb, "write", 'probe value="kept"', "text/plain")


def influx_read(influxdb: Instance) -> str:
    flux = f'from(bucket: "{influxdb.credentials["bucket"]}") |> range(start: -1h) |> keep(columns: ["_value"])'
    return influx_call(influxdb, "query", flux, "application/vnd.flux").text.split()[-1].split(",")[-1]


def s3_write(server: Instance) -> None:
    for path, body in (("/probe", b""), ("/probe/year=2026/a b.txt", b"kept")):
        answer = s3.request("PUT", server.address, path, server.credentials, body)
        assert answer.status_code == 200, answer.text


def s3_read(server: Instance) -> str:
    return s3.request("GET", server.address, "/probe/year=2026/a b.txt", server.credentials).text


def postgres_write(postgres: Instance) -> None:
    query(postgres.place, "create table probe as select 'kept' as value")


PROBES = {
    "kafka": Probe(produce, consume),
    "influxdb": Probe(influx_write, influx_read),
    "minio": Probe(s3_write, s3_read),
    "seaweedfs": Probe(s3_write, s3_read),
    "redis": Probe(lambda redis: None if ask(redis.place, "SET probe kept") == "+OK" else pytest.fail("not set"),
                   lambda redis: ask(redis.place, "GET probe")),
    "postgres": Probe(postgres_write, lambda postgres: query(postgres.place, "select value from probe")),
}  # fmt: skip


# -- a server's life ---------------------------------------------------------------------------------------------------


def relatives(folder: Path, pids: set[int]) -> set[int]:
    """Processes that were there, or that work on the folder."""
    found = {pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE}
    for process in psutil.process_iter(["cmdline"]):
        if str(folder) in " ".join(process.info["cmdline"] or []):
            found.add(process.pid)
    return found


@pytest.mark.parametrize("name", PROBES)
def test_a_server_keeps_its_data_and_leaves_nothing(name: str) -> None:
    probe = PROBES[name]
    with Services.start([name]) as services:
        server = services[name]
        address, pids = server.address, set(server.pids)
        assert server.is_ready()
        probe.write(server)
        assert probe.read(server) == "kept"

        server.kill()
        assert not server.is_ready()
        assert not relatives(services.root, pids)

        server.restart()
        pids |= set(server.pids)
        assert server.address == address
        assert probe.read(server) == "kept"

        server.pause()
        assert not server.is_ready()
        server.resume()
        server.wait_ready(30)

        server.pause()  # a paused server is stopped all the same
        server.stop()
        assert not relatives(services.root, pids)
        server.start()
        assert probe.read(server) == "kept"
        pids |= set(server.pids)
    assert not relatives(services.root, pids)
    assert not services.root.exists()


def test_every_server_but_toxiproxy_has_a_probe() -> None:
    assert set(SERVERS) == {*PROBES, "toxiproxy"}


def test_sieis_takes_kafka_from_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with Services.start(["kafka"]) as services:
        for name, value in services.settings.items():
            monkeypatch.setenv(name, value)
        assert Settings(_env_file=None).kafka_bootstrap == services["kafka"].address


def test_two_of_the_same_stand_side_by_side_with_secrets_of_their_own() -> None:
    with Services.start(["redis"]) as one, Services.start(["redis"]) as other:
        assert one["redis"].address != other["redis"].address
        assert one["redis"].credentials != other["redis"].credentials
        assert one["redis"].credentials["password"] not in repr(one["redis"])
        shown = " ".join(psutil.Process(one["redis"].pids[0]).cmdline())
        assert one["redis"].credentials["password"] not in shown


@pytest.mark.parametrize("name", ["redis", "minio", "seaweedfs", "postgres"])
def test_a_stranger_is_refused(name: str) -> None:
    with Services.start([name]) as services:
        place = services[name].place
        stranger = dict.fromkeys(place.credentials, "wrong") | {"database": "sieis", "username": "sieis"}
        with pytest.raises(NotReadyError):
            SERVERS[name].check(type(place)(place.home, place.folder, place.ports, stranger))


def test_a_port_taken_meanwhile_is_named() -> None:
    with Services.start(["redis"]) as services:
        redis = services["redis"]
        redis.kill()
        port = redis.place.ports["main"]
        with socket.create_server(("127.0.0.1", port)), pytest.raises(PortTakenError, match=str(port)):
            redis.restart()
        redis.restart()
        assert redis.is_ready()


def test_a_start_that_fails_leaves_none_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "redis").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="redis"):
        Services.start(["redis", "toxiproxy"], root=tmp_path)
    assert not relatives(tmp_path, set())


def test_they_die_with_a_parent_that_is_killed_and_the_next_start_tidies_up() -> None:
    code = (
        "from tools.services import Services\n"
        "services = Services.start(['redis', 'postgres'])\n"
        "print(services.root, *[pid for one in services.values() for pid in one.pids], flush=True)\n"
        "input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout
    assert parent.stdin
    folder, *pids = parent.stdout.readline().split()
    family = [psutil.Process(int(pid)) for pid in pids]
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert len(family) > 2
    with Services.start(["redis"]) as services:
        assert services.root.exists()  # its owner is alive
        assert not Path(folder).exists()
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


# -- faults on the wire ------------------------------------------------------------------------------------------------


def test_a_proxy_cuts_and_mends_a_connection() -> None:
    with Services.start(["redis", "toxiproxy"]) as services:
        redis, proxy = services["redis"], services.proxy("redis")
        ports = {"main": int(proxy.address.rpartition(":")[2])}
        through = type(redis.place)(redis.place.home, redis.place.folder, ports, redis.place.credentials)
        assert ask(through, "PING") == "+PONG"
        proxy.cut()
        with pytest.raises(NotReadyError):
            ask(through, "PING")
        proxy.mend()
        assert ask(through, "PING") == "+PONG"
        proxy.spoil("timeout", timeout=0)  # swallows every answer
        with pytest.raises(NotReadyError):
            ask(through, "PING")
        proxy.mend()
        assert ask(through, "PING") == "+PONG"
        assert redis.is_ready()


def test_kafka_behind_a_proxy_sends_its_clients_to_the_proxy() -> None:
    with Services.start(["kafka", "toxiproxy"]) as services:
        proxy = services.proxy("kafka")
        brokers = AdminClient({"bootstrap.servers": proxy.address}).list_topics(timeout=30).brokers.values()
        assert [f"{broker.host}:{broker.port}" for broker in brokers] == [proxy.address]


# -- the commands ------------------------------------------------------------------------------------------------------


@dataclass
class Commands:
    data_dir: Path

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tools.services", *words],
            cwd=ROOT,
            env={**os.environ, "SIEIS_DATA_DIR": str(self.data_dir)},
            capture_output=True,
            text=True,
            check=False,
        )

    def status(self) -> dict[str, dict]:
        return {one["name"]: one for one in json.loads(self("status", "--json").stdout)}


def test_up_status_env_down(tmp_path: Path) -> None:
    run = Commands(tmp_path)
    try:
        up = run("up", "--only", "redis,toxiproxy")
        assert up.returncode == 0, up.stderr
        state = tmp_path / "services" / "state.json"
        assert state.stat().st_mode & 0o777 == 0o600

        status = run.status()
        assert {name for name, one in status.items() if one["state"] == "running"} == {"redis", "toxiproxy"}
        lines = run("env").stdout.splitlines()
        assert [line.partition("=")[0] for line in lines] == ["SIEIS_REDIS_URL"]
        secret = json.loads(state.read_text())["redis"]["credentials"]["password"]
        assert secret in lines[0]
        assert secret not in up.stdout + up.stderr

        again = run("up", "--only", "redis")
        assert "running already" in again.stderr
        assert run.status()["redis"]["pid"] == status["redis"]["pid"]

        os.kill(status["redis"]["pid"], signal.SIGSTOP)
        silent = run("status", "--only", "redis")
        assert silent.returncode == 1
        assert "not answering" in silent.stdout
        os.kill(status["redis"]["pid"], signal.SIGKILL)
        psutil.wait_procs([psutil.Process(status["redis"]["pid"])], timeout=10)
        assert run.status()["redis"]["state"] == "stopped"
        assert run("up", "--only", "redis").returncode == 0
        assert run.status()["redis"]["address"] == status["redis"]["address"]
    finally:
        down = run("down", "--delete")
    assert down.returncode == 0, down.stderr
    assert not relatives(tmp_path, {one["pid"] for one in status.values() if one["pid"]})
    assert not (tmp_path / "services" / "redis").exists()


def test_an_unknown_server_is_named(tmp_path: Path) -> None:
    outcome = Commands(tmp_path)("up", "--only", "oracle")
    assert outcome.returncode == 1
    assert "no such server: oracle" in outcome.stderr
