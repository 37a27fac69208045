"""What running consumers say of themselves, read from their Prometheus metrics.

Belongs here: fetching and adding up. Not here: the metrics themselves (metrics.py), nor what is made of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from sieis_platform.errors import RetriableError

_ANSWER_SECONDS: Final = 3.0  # a consumer that is up answers in milliseconds; busy ones in a second


class ConsumerDownError(RetriableError):
    """No consumer answers at any of the addresses of its metrics."""


class NotConsumerMetricsError(RetriableError):
    """Something else answers at the address of the consumer's metrics."""


@dataclass
class SinkReport:
    """One store's side of the stream, over all processes that serve it.

    `stored`: per partition the offset behind the last record accounted for; `ends`: behind the last one there is;
    `lag`: records between reading and the end. `last_event_seconds`: time of the newest reading written, Unix seconds.
    The counts begin with the processes.
    """

    stored: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    lag: dict[int, int] = field(default_factory=dict)
    last_event_seconds: float | None = None
    records_written: int = 0
    duplicates: int = 0
    errors: int = 0


@dataclass(frozen=True)
class Reported:
    """What consumers say: `sinks` by the store's name; `silent` are the addresses at which no consumer answers."""

    sinks: Mapping[str, SinkReport]
    silent: Sequence[str]


def read_reported(urls: Sequence[str]) -> Reported:
    """Ask the consumers at `urls`.

    Raises: ConsumerDownError where none answers, NotConsumerMetricsError where only something else does.
    """
    sinks: dict[str, SinkReport] = {}
    silent: list[str] = []
    foreign: NotConsumerMetricsError | None = None
    for url in urls:
        try:
            answer = httpx.get(url, timeout=_ANSWER_SECONDS, trust_env=False)
            samples = _samples(url, answer)
        except httpx.TransportError:
            silent.append(url)
            continue
        except NotConsumerMetricsError as error:
            foreign = error
            silent.append(url)
            continue
        _add(sinks, samples)
    if len(silent) == len(urls):
        if foreign is not None:
            raise foreign
        raise ConsumerDownError(
            f"no consumer answers at {', '.join(urls)}: start it (`sieis consume`), or correct SIEIS_METRICS_URLS"
        )
    return Reported(sinks, silent)


def _samples(url: str, answer: httpx.Response) -> list[Sample]:
    try:
        if answer.is_success:
            samples = [
                sample
                for family in text_string_to_metric_families(answer.text)
                for sample in family.samples
                if sample.name.startswith("sieis_")
            ]
            if samples:
                return samples
    except ValueError:  # how the parser says that this is something else
        pass
    raise NotConsumerMetricsError(
        f"what answers at {url} is no consumer (HTTP {answer.status_code}); correct SIEIS_METRICS_PORT or _URLS"
    )


_OFFSETS: Final = {"sieis_stored_offset": "stored", "sieis_end_offset": "ends", "sieis_lag_records": "lag"}
_COUNTS: Final = {
    "sieis_records_written_total": "records_written",
    "sieis_duplicates_total": "duplicates",
    "sieis_errors_total": "errors",
}


def _add(sinks: dict[str, SinkReport], samples: Iterable[Sample]) -> None:
    """Add one process' samples to the reports of its sinks."""
    for name, labels, value, *_ in samples:
        if "sink" not in labels:
            continue
        report = sinks.setdefault(labels["sink"], SinkReport())
        if attribute := _OFFSETS.get(name):
            offsets: dict[int, int] = getattr(report, attribute)
            # A process says nothing of a partition it gave away. While one moves, two may: an offset further on is
            # newer, and of two lags the larger is told, so that none is hidden.
            partition = int(labels["partition"])
            offsets[partition] = max(offsets.get(partition, int(value)), int(value))
        elif attribute := _COUNTS.get(name):
            setattr(report, attribute, getattr(report, attribute) + int(value))
        elif name == "sieis_last_event_timestamp_seconds" and value > 0:
            report.last_event_seconds = max(report.last_event_seconds or 0.0, value)
