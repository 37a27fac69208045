"""Organisation, buckets, retention and the least token, made on a real InfluxDB."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from sieis_platform.settings import Settings
from sieis_platform.stores.hot import HotStoreError, HotStoreUnavailableError
from sieis_platform.stores.influx.setup import ForeignBucketError, first_use, prepare, remove
from sieis_platform.stores.open import open_hot
from tests.influxdb import Buckets
from tests.unit.sieis_platform.stores.influx.test_server import one
from tools.services import Instance, ports
from tools.services.servers.base import Place
from tools.services.servers.influxdb import InfluxDB

pytestmark = pytest.mark.services


def settings(server: Instance, folder: Path, **more: object) -> Settings:
    values = {
        "data_dir": folder,
        "influx_url": server.address,
        "influx_org": "building-7",
        "influx_admin_token": server.credentials["token"],
        **more,
    }
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def retentions(buckets: Buckets, org: str) -> dict[str, int]:
    found = buckets.operator.api("GET", "/buckets", params={"org": org, "limit": 100})["buckets"]
    rules = {one["name"]: one["retentionRules"] for one in found if one["type"] == "user"}
    return {name: kept[0]["everySeconds"] // 86_400 for name, kept in rules.items() if kept}


def test_it_makes_what_is_missing_and_nothing_the_second_time(buckets: Buckets, tmp_path: Path) -> None:
    wanted = settings(buckets.server, tmp_path)
    with structlog.testing.capture_logs() as logs:
        token = prepare(wanted).token
    assert retentions(buckets, "building-7") == {"sensor_data": 30, "sensor_data_hourly": 90}
    assert token not in str(logs)
    with structlog.testing.capture_logs() as logs:
        assert prepare(wanted) == (token, [])
    assert logs == []


def test_a_retention_is_lengthened_and_shortened_only_on_demand(buckets: Buckets, tmp_path: Path) -> None:
    own = {"influx_org": "retention", "hot_retention_days": 30, "hot_hourly_retention_days": 90}
    prepare(settings(buckets.server, tmp_path, **own))
    changed = settings(buckets.server, tmp_path, **own | {"hot_retention_days": 7, "hot_hourly_retention_days": 400})
    done = prepare(changed)
    assert retentions(buckets, "retention") == {"sensor_data": 30, "sensor_data_hourly": 400}
    (difference,) = done.differences
    assert "sensor_data " in difference
    assert "30 days" in difference
    assert "7 days" in difference
    assert "--shorten-retention" in difference
    assert prepare(changed) == done

    assert prepare(changed, shorten_retention=True) == (done.token, [])
    assert retentions(buckets, "retention") == {"sensor_data": 7, "sensor_data_hourly": 400}


def test_a_bucket_that_keeps_all_is_shortened_only_on_demand(buckets: Buckets, tmp_path: Path) -> None:
    wanted = settings(buckets.server, tmp_path, influx_org=buckets.operator.org, influx_bucket=buckets.make())
    (difference,) = prepare(wanted).differences
    assert "for ever" in difference
    assert prepare(wanted, shorten_retention=True).differences == []
    assert retentions(buckets, buckets.operator.org)[wanted.influx_bucket] == 30


def test_its_token_serves_the_hot_store_and_nothing_else(buckets: Buckets, tmp_path: Path) -> None:
    wanted = settings(buckets.server, tmp_path, influx_org="least")
    token = prepare(wanted).token
    store = open_hot(wanted.model_copy(update={"influx_token": SecretStr(token)}))
    now = time.time_ns()
    store.ping()
    assert store.write_readings(one(1, now)).written == 1
    assert store.latest().height == store.delete_readings(now, now + 1) == 1

    other = buckets.make()
    org = buckets.operator.api("GET", "/orgs", params={"org": "least"})["orgs"][0]["id"]
    least = buckets.client(token)
    with pytest.raises(HotStoreError, match=r"refuses the token|lacks something"):
        least.write(other, b"sensor_reading,mote_id=1 present=0")
    with pytest.raises(HotStoreError, match=r"refuses the token|lacks something"):
        least.api("POST", "/buckets", body={"orgID": org, "name": "mine"})
    everything = [{"action": "read", "resource": {"type": "orgs"}}]
    with pytest.raises(HotStoreError, match=r"refuses the token|lacks something"):
        least.api("POST", "/authorizations", body={"orgID": org, "permissions": everything})


@pytest.fixture
def fresh(buckets: Buckets, tmp_path: Path) -> Iterator[Instance]:
    """A server that nobody has set up yet, as docker compose starts it."""

    class Untouched(InfluxDB):
        def first_use(self, place: Place) -> None:
            pass

    place = dataclasses.replace(buckets.server.place, folder=tmp_path / "influxdb", ports=ports.choose(["main"]))
    server = Instance(Untouched(), place)
    server.start()
    yield server
    server.stop()


def test_a_server_that_nobody_has_set_up_is(fresh: Instance, tmp_path: Path) -> None:
    wanted = settings(fresh, tmp_path)
    token = prepare(wanted).token
    open_hot(wanted.model_copy(update={"influx_token": SecretStr(token)})).ping()
    assert prepare(wanted).token == token


def test_a_demo_may_be_the_first_to_use_a_server_and_start_over_on_it(fresh: Instance, tmp_path: Path) -> None:
    org = fresh.credentials["org"]
    real = settings(fresh, tmp_path, influx_org=org)
    names = {"influx_bucket": "sensor_data-demo", "influx_hourly_bucket": "sensor_data_hourly-demo"}
    demo = settings(fresh, tmp_path, influx_org=org, **names)
    remove(demo, description="by a demo")  # sets nothing up
    for _ in range(2):
        first_use(real)
        remove(demo, description="by a demo")
        token = prepare(demo, description="by a demo").token
        open_hot(demo.model_copy(update={"influx_token": SecretStr(token)})).ping()
    assert set(retentions(Buckets(fresh), org)) == {"sensor_data", *names.values()}
    with pytest.raises(ForeignBucketError):
        remove(real, description="by a demo")


def test_what_is_missing_is_said(buckets: Buckets, tmp_path: Path) -> None:
    with pytest.raises(HotStoreError, match="SIEIS_INFLUX_ADMIN_TOKEN"):
        prepare(settings(buckets.server, tmp_path, influx_admin_token=None))
    with pytest.raises(HotStoreError, match="refuses the token"):
        prepare(settings(buckets.server, tmp_path, influx_admin_token="wrong"))
    with pytest.raises(HotStoreUnavailableError):
        prepare(settings(buckets.server, tmp_path, influx_url="http://127.0.0.1:9"))
    with pytest.raises(HotStoreError, match="SIEIS_INFLUX_TOKEN"):
        open_hot(settings(buckets.server, tmp_path))
