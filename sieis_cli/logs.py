"""How log lines look and where they go: structlog and the standard library's loggers through one pipe, to stderr.

Belongs here: the configuration, once for each process. Not here: what is logged.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

_SECRET_NAME = re.compile(
    r"(password|passwd|secret|token|api_?key|access_key|credential|authorization|cookie)", re.IGNORECASE
)
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_MASK = "***"

# Libraries that tell of every request or file at level info.
_TALKATIVE = ("httpx", "httpcore", "urllib3", "alembic", "mlflow", "matplotlib", "asyncio", "watchdog")


def configure(level: str, form: Literal["auto", "console", "json"]) -> None:
    """Send all logs of this process to stderr: readable lines on a terminal, one JSON object a line elsewhere.

    `level` is the least severe level shown; `form` forces one of the two forms. A second call replaces the first.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]
    # Plain tracebacks in both forms: the richer ones print local variables, and with them secrets.
    rendering: list[Processor] = (
        [
            redact,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
        ]
        if console
        else [structlog.processors.format_exc_info, redact, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(threshold, logging.WARNING))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """structlog processor: values under a secret's name and credentials inside addresses become `***`."""
    return _masked(event)


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _MASK if _SECRET_NAME.search(str(key)) else _masked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_masked(item) for item in value) if type(value) in (list, tuple) else value
    if isinstance(value, str):
        return _URL_CREDENTIALS.sub(f"{_MASK}@", value)
    return value
