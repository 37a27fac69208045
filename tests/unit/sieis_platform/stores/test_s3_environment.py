"""What reaches the S3 server comes from the settings alone: each library's own requests, seen by the server.

Belongs here: that nothing of the environment gets into them, and the session token of the settings does. Not here: what
the requests do (tests/services/test_s3.py).
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import polars as pl
import pytest
from deltalake import DeltaTable

from sieis_platform.settings import Settings
from sieis_platform.stores.objects import tag
from sieis_platform.stores.s3 import BucketError, make_bucket, scan_options, storage_options

NOWHERE = "http://127.0.0.1:9"
#: Variables that one of the libraries takes for an option (object_store's AmazonS3ConfigKey and ClientConfigKey), the
#: Delta library in any case and without AWS_ too.
STRAY = {
    "AWS_SESSION_TOKEN": "foreign", "AWS_TOKEN": "foreign", "AWS_PROFILE": "foreign", "AWS_ACCESS_KEY_ID": "foreign",
    "AWS_SECRET_ACCESS_KEY": "foreign", "AWS_REGION": "mars-north-1", "AWS_DEFAULT_REGION": "mars-north-1",
    "AWS_ENDPOINT": NOWHERE, "AWS_ENDPOINT_URL": NOWHERE, "AWS_ENDPOINT_URL_S3": NOWHERE, "AWS_PROXY_URL": NOWHERE,
    "AWS_SKIP_SIGNATURE": "true", "AWS_UNSIGNED_PAYLOAD": "true", "AWS_S3_EXPRESS": "true", "AWS_REQUEST_PAYER": "true",
    "AWS_SERVER_SIDE_ENCRYPTION": "AES256", "AWS_COPY_IF_NOT_EXISTS": "wrong", "AWS_CONDITIONAL_PUT": "wrong",
    "AWS_ALLOW_INVALID_CERTIFICATES": "wrong", "AWS_USER_AGENT": "foreign", "AWS_HTTP2_ONLY": "true",
    "aws_session_token": "foreign", "aws_endpoint_url_s3": NOWHERE,
    "TOKEN": "foreign", "SESSION_TOKEN": "foreign", "SKIP_SIGNATURE": "true", "UNSIGNED_PAYLOAD": "true",
    "S3_EXPRESS": "true", "REQUEST_PAYER": "true", "PROXY_URL": NOWHERE, "ALLOW_INVALID_CERTIFICATES": "wrong",
    "COPY_IF_NOT_EXISTS": "wrong", "USER_AGENT": "foreign", "HTTP2_ONLY": "true", "ENDPOINT_URL_S3": NOWHERE,
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Has nothing, and notes what it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        seen = self.seen

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.answer()

            def do_HEAD(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def asked(self, use: "Use", **more: object) -> list[object]:
        """What `use` sends with settings read now, but for times, signatures and the bucket, which is a new one."""
        bucket = f"b{uuid.uuid4().hex}"
        settings = Settings(
            _env_file=None,  # pyright: ignore[reportCallIssue]
            s3_endpoint_url=f"http://127.0.0.1:{self.server_port}",
            s3_access_key_id="ours",
            s3_secret_access_key="secret",  # pyright: ignore[reportArgumentType]
            s3_allow_http=True,
            s3_timeout_seconds=5,
            **more,  # pyright: ignore[reportArgumentType]
        )
        self.seen.clear()
        use(settings, bucket)
        return [_told(*request, bucket) for request in self.seen]


def _told(command: str, path: str, headers: dict[str, str], bucket: str) -> object:
    passing = ("x-amz-date", "X-Amz-Date", "X-Amz-Signature")
    query = parse_qs(urlsplit(path).query)
    kept = {**headers, **query, "authorization": headers.get("authorization", "").partition("Signature=")[0]}
    kept = {name: value for name, value in kept.items() if name not in passing}
    return command, urlsplit(path).path.replace(bucket, "bucket"), kept


Use = Callable[[Settings, str], None]


def of_delta(settings: Settings, bucket: str) -> None:
    with pytest.raises(OSError, match="404"):
        DeltaTable(f"s3://{bucket}/x", storage_options=storage_options(settings, f"s3://{bucket}/x"))


def of_polars(settings: Settings, bucket: str) -> None:
    options = storage_options(settings, f"s3://{bucket}/x")
    found = pl.scan_parquet(f"s3://{bucket}/x.parquet", storage_options={**options, **scan_options(options)})
    with pytest.raises(FileNotFoundError):
        found.collect()


def of_objects(settings: Settings, bucket: str) -> None:
    assert tag(f"s3://{bucket}/x", storage_options(settings, f"s3://{bucket}/x"), "y") is None


def of_make_bucket(settings: Settings, bucket: str) -> None:
    with pytest.raises(BucketError):
        make_bucket(settings, bucket)


USES = [of_delta, of_polars, of_objects, of_make_bucket]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.parametrize("use", USES)
def test_variables_meant_for_other_programs_change_no_request(
    server: Server, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = server.asked(use)
    assert plain
    assert plain == server.asked(use), "requests differ by themselves"
    for name, value in STRAY.items():
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            assert server.asked(use) == plain, name


@pytest.mark.parametrize("use", USES)
def test_the_session_token_of_the_settings_goes_with_every_request(server: Server, use: Use) -> None:
    told = str(server.asked(use, s3_session_token="temporary"))
    assert "temporary" in told
    assert "security-token" in told.lower()
    assert "temporary" not in str(server.asked(use))


def test_a_bucket_is_made_without_the_proxy_and_the_netrc_of_other_programs(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = server.asked(of_make_bucket)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert server.asked(of_make_bucket) == plain
