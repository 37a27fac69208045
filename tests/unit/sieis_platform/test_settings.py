"""Settings that are more than one word: what may be written, and what is refused."""

import pytest
from pydantic import ValidationError

from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import Settings, reached_at


@pytest.mark.parametrize(
    ("text", "meant"),
    [("7=30,9=90", {7: 30, 9: 90}), (" 7 = 0 ", {7: 0}), ('{"7": 30}', {7: 30}), ("", {}), ("{}", {})],
)
def test_the_retention_of_single_motes(monkeypatch: pytest.MonkeyPatch, text: str, meant: dict[int, int]) -> None:
    monkeypatch.setenv("SIEIS_ARCHIVE_RETENTION_MOTES", text)
    settings = Settings(_env_file=None)  # pyright: ignore[reportCallIssue]
    assert settings.archive_retention_motes == meant
    assert PlatformResource.of(settings).settings().archive_retention_motes == meant


@pytest.mark.parametrize("text", ["7", "7=", "0=30", "7=-1", "seven=30", '{"7": "long"}', "{7: 30}"])
def test_what_is_no_retention_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SIEIS_ARCHIVE_RETENTION_MOTES", text)
    with pytest.raises(ValidationError, match="archive_retention_motes"):
        Settings(_env_file=None)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("marts", ["s3://bucket/marts", "s3://bucket", "s3://bucket/"])
def test_marts_inside_the_archives_folder_are_refused(marts: str) -> None:
    with pytest.raises(ValidationError, match="a folder of its own"):
        Settings(_env_file=None, archive_uri="s3://bucket", marts_uri=marts)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    ("archive", "cold", "marts"),
    [
        ("s3://hot/readings", "s3://hot/readings/old", "s3://marts"),
        ("s3://hot/readings", "s3://hot", "s3://marts"),
        ("s3://hot/readings", "s3://hot/readings/", "s3://marts"),
        ("s3://hot/readings", "s3://marts/old", "s3://marts"),
        ("s3://hot/readings", "s3://cold", "s3://cold/marts"),
        ("/v/a", "/v/b/../a", "/v/marts"),
        ("", "", ""),
    ],
)
def test_a_cold_table_in_or_around_another_folder_is_refused(archive: str, cold: str, marts: str) -> None:
    places = {"archive_uri": archive, "archive_cold_uri": cold, "marts_uri": marts}
    if not cold:
        Settings(_env_file=None, **places)  # pyright: ignore
        return
    with pytest.raises(ValidationError, match="one inside the other"):
        Settings(_env_file=None, **places)  # pyright: ignore


def test_tables_side_by_side_are_fine() -> None:
    for archive, marts in (("s3://a", "s3://a-marts"), ("s3://b/archive", "s3://b/archive-marts"), ("/v/a", "/v/b")):
        cold = f"{archive}-cold"
        Settings(_env_file=None, archive_uri=archive, archive_cold_uri=cold, marts_uri=marts)  # pyright: ignore


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("192.0.2.7", "http://192.0.2.7:80"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
    ],
)
def test_what_listens_on_an_address_is_reached_there(host: str, address: str) -> None:
    assert reached_at(host, 80) == address
    settings = Settings(_env_file=None, api_host=host, api_port=80, metrics_host=host, metrics_port=80)  # pyright: ignore[reportCallIssue]
    assert (settings.api_url, settings.consumer_metrics) == (address, [f"{address}/metrics"])


@pytest.mark.parametrize("name", ["mlflow_uri", "influx_url"])
def test_an_address_that_is_shown_holds_no_password(name: str) -> None:
    for address in ("http://mlflow:5001", "https://mlflow.example/tracking/"):
        assert getattr(Settings(_env_file=None, **{name: address}), name) == address  # pyright: ignore
    for address in ("http://user:hunter2@mlflow:5001", "https://mlflow/?token=hunter2", "postgresql://u:hunter2@db/m"):
        with pytest.raises(ValidationError) as refused:
            Settings(_env_file=None, **{name: address})  # pyright: ignore
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("name", ["data_dir", "archive_uri", "archive_cold_uri", "marts_uri"])
@pytest.mark.parametrize("sign", [*"[]*?#", "%20"])
def test_folders_that_could_not_be_read_again_are_refused(name: str, sign: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} contains one of"):
        Settings(_env_file=None, **{name: f"/v/a{sign}b/c"})  # pyright: ignore[reportCallIssue]
