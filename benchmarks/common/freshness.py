"""How long a reading takes from produce() until it can be read, at a steady rate that waits for nothing.

Belongs here: the open loop and both ways to tell when a reading is there. Not here: servers.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

import numpy as np
from confluent_kafka import Producer

from benchmarks.common.messages import MOTES, reading
from benchmarks.common.process import Consumer
from benchmarks.common.results import Result, result
from sieis_platform.settings import Settings
from sieis_platform.stores.hot import HotStore
from sieis_platform.stores.open import open_hot
from sieis_streaming.broker import client_config, locate
from sieis_streaming.metrics import latency_quantile

RATE: Final = 1_000
FLOOR_MS: Final = 1_000
#: A process and a bucket pay at first use for what they load and make: two seconds that no later reading waits for.
_WARM_SECONDS: Final = 5.0
_QUESTION_SECONDS: Final = 0.01
_PAUSE_SECONDS: Final = 0.3
_WRITTEN: Final = ("sieis_records_written_total", "hot")


def freshness(settings: Settings, *, seconds: float, store: str) -> Iterator[Result]:
    """Quantiles of produce to acknowledged by the hot store, and of produce to seen by a query of it.

    The first is the consumer's own metric: from the record's timestamp, which is the producer's clock at produce()
    (so the topic must be of the type CreateTime), until the write is acknowledged, in every reading. The second asks
    the store itself for one reading after the other, by its key, until it is there.
    """
    producer = Producer(client_config(settings, locate(settings)) | {"linger.ms": 5})
    with Consumer(settings, "hot", "archive") as consumer:
        # The groups have formed once the first record is through; the measurement begins after that.
        key, value = reading(1, time.time_ns())
        producer.produce(settings.kafka_topic, value, key)
        producer.flush()
        consumer.wait(
            lambda seen: seen.get(_WRITTEN, 0) >= 1 and seen.get(("sieis_records_read_total", "archive"), 0) >= 1
        )
        hot = open_hot(settings)
        asking = _Asking(hot)
        warm, total = round(RATE * _WARM_SECONDS), round(RATE * seconds)
        _offer(settings, producer, warm, asking)
        consumer.wait(lambda seen: seen.get(_WRITTEN, 0) >= 1 + warm)
        before = consumer.latencies("hot")
        asking.start()
        _offer(settings, producer, total, asking)
        consumer.wait(lambda seen: seen.get(_WRITTEN, 0) >= 1 + warm + total)
        asking.end()
        hot.close()
        counts = consumer.latencies("hot") - before
    workload = f"{RATE:,} records/s for {seconds:.0f} s after {_WARM_SECONDS:.0f} s not counted, open loop, both stores"
    for quantile in (0.5, 0.99):
        yield result(
            f"produce to acknowledged by {store}, p{round(quantile * 100)}",
            1_000 * latency_quantile(counts, quantile),
            "ms",
            f"{workload}; every reading",
            FLOOR_MS if quantile == 0.99 else None,
        )
    for quantile in (0.5, 0.99):
        yield result(
            f"produce to seen by a query of {store}, p{round(quantile * 100)}",
            1_000 * float(np.quantile(asking.found, quantile, method="higher")),
            "ms",
            f"{workload}; {len(asking.found)} of them asked for until there",
            FLOOR_MS if quantile == 0.99 else None,
        )


def _offer(settings: Settings, producer: Producer, total: int, asking: "_Asking") -> None:
    started = time.perf_counter()
    for sent in range(total):
        # Open loop: the schedule does not wait for the system, so that a stall shows as latency.
        while (ahead := started + sent / RATE - time.perf_counter()) > 0:
            producer.poll(min(ahead, 0.01))
        # Whole microseconds, as the message says it: the store is asked for this very time.
        mote_id, now_ns = sent % MOTES + 1, time.time_ns() // 1_000 * 1_000
        key, value = reading(mote_id, now_ns)
        producer.produce(settings.kafka_topic, value, key)
        asking.offered(mote_id, now_ns)
    producer.flush()


class _Asking(threading.Thread):
    """Takes the next reading offered, asks the store for it until it is there, and so on; `found` are the seconds."""

    def __init__(self, hot: HotStore) -> None:
        super().__init__(name="asking")
        self._hot = hot
        self._wants = threading.Event()
        self._has = threading.Event()
        self._ended = threading.Event()
        self._reading = (0, 0)
        self.found: list[float] = []
        self._error: BaseException | None = None

    def offered(self, mote_id: int, timestamp_ns: int) -> None:
        """Tell of a reading that was just produced."""
        if self._wants.is_set():
            self._wants.clear()
            self._reading = (mote_id, timestamp_ns)
            self._has.set()

    def run(self) -> None:
        try:
            while not self._ended.wait(_PAUSE_SECONDS):
                self._wants.set()
                if self._has.wait(1.0):
                    self._has.clear()
                    self._ask(*self._reading)
        except BaseException as error:  # noqa: BLE001 - raised again in `end`
            self._error = error

    def end(self) -> None:
        """Wait for the last answer. Raises: what asking raised."""
        self._ended.set()
        self.join()
        if self._error is not None:
            raise self._error

    def _ask(self, mote_id: int, timestamp_ns: int) -> None:
        while self._hot.readings(timestamp_ns, timestamp_ns + 1, [mote_id]).is_empty():
            time.sleep(_QUESTION_SECONDS)
        self.found.append((time.time_ns() - timestamp_ns) / 1e9)
