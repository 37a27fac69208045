"""Downloads from a real HTTP server: whole, resumed, refused, damaged; nothing half in place."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stamina

from sieis_platform.settings import Settings
from sieis_platform.sources.download import (
    DownloadCorruptError,
    DownloadError,
    DownloadNotFoundError,
    DownloadUnreachableError,
    fetch,
    locations_path,
    readings_path,
)

BODY = gzip.compress(b"2004-02-28 00:59:16.02785 3 1 19.9884 37.0933 45.08 2.69964\n" * 40_000, compresslevel=0)


@dataclass
class Server:
    """What the server serves, how it misbehaves, and what it was asked."""

    address: str = ""
    body: bytes = BODY
    etag: str = '"v1"'
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # of the next answers: bytes sent before the connection breaks
    statuses: list[int] = field(default_factory=list)  # of the next answers, before it behaves
    redirect: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"{self.address}/data.txt.gz"


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(dict(self.headers))
            if state.redirect:
                self.send_response(302)
                self.send_header("Location", state.redirect)
                self.end_headers()
                return
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start, status = 0, 200
            wanted = self.headers.get("Range")
            if wanted and state.ranges and self.headers.get("If-Range") == state.etag:
                start, status = int(wanted.removeprefix("bytes=").removesuffix("-")), 206
                if start >= len(state.body):
                    self.send_error(416)
                    return
            self.send_response(status)
            self.send_header("Content-Length", str(len(state.body) - start))
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            part = state.body[start:]
            self.wfile.write(part[: state.cut_after.pop(0)] if state.cut_after else part)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    with stamina.set_testing(True, attempts=3):  # three attempts, no waiting between them
        yield state
    http.shutdown()
    thread.join()
    http.server_close()


def only(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_download_is_whole_and_alone_in_its_folder(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    done = fetch(server.url, tmp_path / "d" / "data.txt.gz", progress=lambda have, total: seen.append((have, total)))
    assert done.path.read_bytes() == BODY
    assert (done.size_bytes, done.already_there) == (len(BODY), False)
    assert seen[-1] == (len(BODY), len(BODY))
    only(tmp_path / "d", "data.txt.gz")


def test_what_is_there_is_not_fetched_again_unless_it_is_another_file(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.txt.gz"
    fetch(server.url, target)
    assert fetch(server.url, target, sha256=hashlib.sha256(BODY).hexdigest().upper()).already_there
    assert len(server.asked) == 1
    target.write_bytes(b"old")
    fetch(server.url, target, sha256=hashlib.sha256(BODY).hexdigest())
    assert target.read_bytes() == BODY


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.cut_after = [500_000, 700_000]
    fetch(server.url, tmp_path / "data.txt.gz")
    assert (tmp_path / "data.txt.gz").read_bytes() == BODY
    assert [ask.get("Range") for ask in server.asked] == [None, "bytes=500000-", "bytes=1200000-"]
    only(tmp_path, "data.txt.gz")


def test_a_later_run_resumes_an_earlier_one(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000] * 3
    with pytest.raises(DownloadUnreachableError, match="it resumes"):
        fetch(server.url, tmp_path / "data.txt.gz")
    only(tmp_path, "data.txt.gz.part", "data.txt.gz.part.json")
    fetch(server.url, tmp_path / "data.txt.gz")
    assert server.asked[-1]["Range"] == "bytes=300000-"
    assert (tmp_path / "data.txt.gz").read_bytes() == BODY


@pytest.mark.parametrize("trouble", ["no ranges", "another file", "no validator", "another address"])
def test_what_cannot_be_resumed_begins_anew(server: Server, tmp_path: Path, trouble: str) -> None:
    server.etag = "" if trouble == "no validator" else server.etag
    server.cut_after = [100_000] * 3
    with pytest.raises(DownloadUnreachableError):
        fetch(server.url, tmp_path / "data.txt.gz")
    url = server.url
    if trouble == "no ranges":
        server.ranges = False
    elif trouble == "another file":
        server.body, server.etag = gzip.compress(b"other" * 50_000, compresslevel=0), '"v2"'
    elif trouble == "another address":
        url = f"{server.address}/other.gz"
    fetch(url, tmp_path / "data.txt.gz")
    assert (tmp_path / "data.txt.gz").read_bytes() == server.body
    only(tmp_path, "data.txt.gz")


def test_a_part_longer_than_the_file_begins_anew(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000] * 3
    with pytest.raises(DownloadUnreachableError):
        fetch(server.url, tmp_path / "data.txt.gz")
    with (tmp_path / "data.txt.gz.part").open("ab") as part:
        part.write(bytes(len(BODY)))
    fetch(server.url, tmp_path / "data.txt.gz")
    assert (tmp_path / "data.txt.gz").read_bytes() == BODY


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    fetch(server.url, tmp_path / "data.txt.gz")
    server.statuses = [404]
    with pytest.raises(DownloadNotFoundError, match="SIEIS_DATA_URL"):
        fetch(server.url, tmp_path / "other.gz")
    server.statuses = [403]
    with pytest.raises(DownloadError, match="403"):
        fetch(server.url, tmp_path / "other.gz")
    server.statuses = [500] * 3
    with pytest.raises(DownloadUnreachableError, match="500"):
        fetch(server.url, tmp_path / "other.gz")
    assert len(server.asked) == 3 + 1 + 1 + 3


def test_content_that_is_not_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "data.txt.gz"
    with pytest.raises(DownloadCorruptError, match="SHA-256"):
        fetch(server.url, target, sha256="0" * 64)
    damaged = bytearray(BODY)
    damaged[len(damaged) // 2] ^= 1
    for body, why in ((bytes(damaged), "damaged"), (BODY[:-100], "damaged"), (b"<html>sign in</html>", "web page")):
        server.body = body
        with pytest.raises(DownloadCorruptError, match=why):
            fetch(server.url, target)
    with pytest.raises(DownloadCorruptError, match="web page"):
        fetch(server.url, tmp_path / "mote_locs.txt")
    only(tmp_path)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "no address", "http://"])
def test_only_http_addresses_are_followed(server: Server, tmp_path: Path, url: str) -> None:
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "data.txt.gz")
    server.redirect = url
    if "://" in url and url != "http://":
        with pytest.raises(DownloadError, match="neither http"):
            fetch(server.url, tmp_path / "data.txt.gz")
    only(tmp_path)


def test_no_server_is_no_reason_to_give_up_for_ever_and_secrets_stay_secret(server: Server, tmp_path: Path) -> None:
    gone = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    gone.server_close()  # nobody listens on its port now
    with pytest.raises(DownloadUnreachableError, match="check the network") as caught:
        fetch(f"http://me:hidden@127.0.0.1:{gone.server_port}/x.gz?key=hidden", tmp_path / "x.gz")
    assert "hidden" not in str(caught.value)
    assert str(tmp_path / "x.gz") in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(server.url, tmp_path / "file" / "data.txt.gz")


def test_the_files_lie_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, data_url="https://example.org/a/b.gz?x=1")
    assert readings_path(settings) == tmp_path / "data" / "data.txt.gz"
    assert readings_path(Settings(data_dir=tmp_path, data_url="https://example.org/b")).name == "data.txt"
    assert locations_path(settings) == tmp_path / "data" / "mote_locs.txt"
