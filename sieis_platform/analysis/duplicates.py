"""Which readings repeat the last known values of their key, inside a bounded window.

Belongs here: the comparison, in columns. Not here: what happens to a duplicate (the sinks and the load count it).
"""

import polars as pl

from sieis_platform.reading import FIELDS, KEY

_COLUMNS = [*KEY, *FIELDS, "source_partition"]
#: 2^64 divided by the golden ratio, odd: neighbouring times lie far apart (Knuth, The Art of Computer Programming 6.4).
_SPREAD = -7046029254386353131


class DuplicateWindow:
    """The newest values of the last keys seen, per stream partition.

    A reading is a duplicate only if it equals the *latest* reading of its key: A, B, A leaves A as the last one, so the
    second A is no duplicate (the last one must win).
    """

    def __init__(self, rows_per_partition: int) -> None:
        self._rows_per_partition = rows_per_partition
        self._seen = pl.DataFrame()

    def split(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """`rows` (READING_SCHEMA and source_partition, in stream order) without duplicates, and the window after them.

        Nothing is remembered until `remember` is called with the second frame, once the rows are safely stored.
        """
        both = pl.concat([self._seen, rows.select(_COLUMNS)]) if self._seen.height else rows.select(_COLUMNS)
        # Keys that occur once, nearly all of them, need no comparison. Two keys that only look the same as one number
        # (it wraps around) cost a comparison that finds them different.
        as_number = both.select(pl.col("timestamp") * _SPREAD + pl.col("mote_id")).to_series()
        if as_number.n_unique() == both.height:
            return rows, self._tail(both)
        same_as_before = pl.all_horizontal(pl.col(field).eq_missing(pl.col(field).shift(1)) for field in FIELDS)
        is_duplicate = (
            both.select(
                pl.when(pl.col("mote_id").cum_count().over(KEY) > 1)
                .then(same_as_before.over(KEY))
                .otherwise(statement=False)
                .alias("duplicate")
            )
            .to_series()
            .tail(rows.height)
        )
        return rows.filter(~is_duplicate), self._tail(both)

    def remember(self, window: pl.DataFrame) -> None:
        """Adopt the window that `split` returned."""
        self._seen = window

    def forget(self, partitions: list[int]) -> None:
        """Drop what is known of partitions that are no longer ours."""
        if self._seen.height:
            self._seen = self._seen.filter(~pl.col("source_partition").is_in(partitions))

    def _tail(self, both: pl.DataFrame) -> pl.DataFrame:
        if both.height <= self._rows_per_partition:
            return both
        from_end = pl.int_range(pl.len(), 0, -1).over("source_partition")
        return both.filter(from_end <= self._rows_per_partition)
