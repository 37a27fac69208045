"""The consumer's metrics at one moment, as the demo reads them.

Belongs here: picking figures out of them. Not here: what the consumer counts (sieis_streaming.metrics).
"""

from dataclasses import dataclass
from typing import Self

import httpx
import numpy as np
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Figures:
    """The consumer's metrics at one moment."""

    families: list[Metric]

    @classmethod
    def of(cls, url: str) -> Self:
        """Those that the consumer serves now at `url`. Raises: httpx.TransportError."""
        text = httpx.get(url, trust_env=False).text
        return cls(list(text_string_to_metric_families(text)))

    def value(self, name: str, **labels: str) -> float:
        """The sum over all samples with these labels."""
        samples = (sample for family in self.families for sample in family.samples)
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def taken(self, sink: str) -> float:
        """Records that a sink is done with, whatever became of them."""
        fates = ("records_written", "beyond_retention", "duplicates", "dead_letters")
        return sum(self.value(f"sieis_{fate}_total", sink=sink) for fate in fates)

    def buckets(self, name: str, **labels: str) -> np.ndarray:
        """Counts by bucket of a histogram."""
        samples = (sample for family in self.families for sample in family.samples)
        cumulated = [
            one.value for one in samples if one.name == f"{name}_bucket" and labels.items() <= one.labels.items()
        ]
        return np.diff(np.array(cumulated), prepend=0)
