"""`sieis consume` working off what lies in a topic: how fast, in how much memory, at what cost of processor time.

Belongs here: one such run. Not here: what is in the topic, which servers there are.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.common.process import Consumer
from sieis_platform.settings import Settings, Sink


@dataclass(frozen=True)
class WorkedOff:
    """One run: `rates` are records a second by store, from the first record read to the store's last write.

    `microseconds` are of processor time a record (the run's first store counts them), by process.
    """

    rates: dict[Sink, float]
    peak_mb: float
    microseconds: dict[str, float]

    @property
    def rate(self) -> float:
        """Records a second that are in every store."""
        return min(self.rates.values())


def work_off(
    settings: Settings, count: int, *sinks: Sink, cpu: Mapping[str, Callable[[], float]] | None = None
) -> WorkedOff:
    """Consume until the hot store has `count` records and the archive has read them, then stop in good order.

    The archive's last rows wait for company, by size or age: its rate is that of its writes up to the last one before.
    `cpu`: further processes whose time is told, each as a function that says how many seconds it has used.
    Raises: BenchmarkError.
    """
    written = {sink: ("sieis_records_written_total", sink) for sink in sinks}
    read = {sink: ("sieis_records_read_total", sink) for sink in sinks}
    last: dict[Sink, tuple[float, float]] = {}

    with Consumer(settings, *sinks) as consumer:
        clocks = {"consumer": consumer.cpu_seconds, **(cpu or {})}
        consumer.wait(lambda seen: any(seen.get(read[sink], 0) for sink in sinks))
        started = time.perf_counter()
        used = {name: clock() for name, clock in clocks.items()}

        def done(seen: dict[tuple[str, str], float]) -> bool:
            for sink in sinks:
                records = seen.get(written[sink], 0)
                if records != last.get(sink, (0, 0))[0]:
                    last[sink] = (records, time.perf_counter() - started)
            return all(
                seen.get((written if sink == "hot" or len(sinks) == 1 else read)[sink], 0) >= count for sink in sinks
            )

        seen = consumer.wait(done)
        used = {name: clock() - used[name] for name, clock in clocks.items()}
    records = seen[read[sinks[0]]]
    return WorkedOff(
        rates={sink: records / seconds for sink, (records, seconds) in last.items()},
        peak_mb=consumer.peak_bytes / 1e6,
        microseconds={name: 1e6 * seconds / records for name, seconds in used.items()},
    )
