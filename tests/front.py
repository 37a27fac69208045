"""An HTTP proxy in front of a real InfluxDB: it passes everything on, notes each write, and answers some by itself.

Belongs here: that. Not here: what a wire does to bytes (toxiproxy), or which answers a test wants.
"""

import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, NamedTuple

import httpx

_TIMEOUT_SECONDS: Final = 30
#: Of one connection, not of what is asked on it (RFC 9110 7.6.1).
_HOP: Final = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Write(NamedTuple):
    """One write: when it came and was answered (monotonic seconds), how it was encoded, its bytes, the answer."""

    came: float
    answered: float
    encoding: str
    size: int
    status: int


class Answer(NamedTuple):
    """What the proxy says by itself in InfluxDB's place."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}


class Front(ThreadingHTTPServer):
    """The proxy, while the context is open; `answers` are given to the next writes, the first first."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        self.writes: list[Write] = []
        self.answers: list[Answer] = []
        self.always: Answer | None = None
        """Given to every write while it is set."""
        self._client = httpx.Client(base_url=upstream, timeout=_TIMEOUT_SECONDS, trust_env=False)
        self._thread = threading.Thread(target=self.serve_forever)
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def address(self) -> str:
        """Its URL, in the place of InfluxDB's."""
        return f"http://127.0.0.1:{self.server_port}"

    def told(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer | httpx.Response:
        """The answer to one request; of a write it is noted."""
        if not path.startswith("/api/v2/write"):
            return self._client.request(method, path, content=body, headers=dict(headers))
        came = time.monotonic()
        answer = self.always or (self.answers.pop(0) if self.answers else None)
        if answer is None:
            answer = self._client.request(method, path, content=body, headers=dict(headers))
        status = answer.status if isinstance(answer, Answer) else answer.status_code
        self.writes.append(Write(came, time.monotonic(), headers.get("content-encoding", ""), len(body), status))
        return answer

    def __enter__(self) -> "Front":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()
        self._client.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front  # pyright: ignore[reportIncompatibleVariableOverride] - nothing else makes one

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        headers = {name.lower(): value for name, value in self.headers.items() if name.lower() not in (*_HOP, "host")}
        answer = self.server.told(self.command, self.path, body, headers)
        if isinstance(answer, Answer):
            status, content, more = answer.status, answer.body.encode(), answer.headers
        else:
            # Decoded by the client: what says how it was encoded is no longer true.
            status, content, more = answer.status_code, answer.content, answer.headers
        self.send_response(status)
        for name, value in more.items():
            if name.lower() not in (*_HOP, "content-encoding", "date"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        pass
