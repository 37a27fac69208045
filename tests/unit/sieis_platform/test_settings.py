"""Settings that are more than one word: what may be written, and what is refused."""

import pytest
from pydantic import ValidationError

from sieis_platform.defs.resources import PlatformResource
from sieis_platform.settings import Settings


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


def test_tables_side_by_side_are_fine() -> None:
    for archive, marts in (("s3://a", "s3://a-marts"), ("s3://b/archive", "s3://b/archive-marts"), ("/v/a", "/v/b")):
        Settings(_env_file=None, archive_uri=archive, marts_uri=marts)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("name", ["data_dir", "archive_uri", "marts_uri"])
@pytest.mark.parametrize("sign", [*"[]*?#", "%20"])
def test_folders_that_could_not_be_read_again_are_refused(name: str, sign: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} contains one of"):
        Settings(_env_file=None, **{name: f"/v/a{sign}b/c"})  # pyright: ignore[reportCallIssue]
