"""How many rows one transaction of a bulk write takes, so that it holds SQLite's lock for about so long.

Belongs here: that estimate. Not here: the transactions (sqlite.py).
"""

from typing import Final

_FIRST_ROWS: Final = 5_000
_MOST_ROWS: Final = 200_000


class Pieces:
    """Sizes of pieces that take about `seconds` each, learnt from those before; never fewer than `least` rows."""

    def __init__(self, seconds: float, least: int) -> None:
        self.rows = max(_FIRST_ROWS, least)
        self._seconds = seconds
        self._least = least

    def took(self, rows: int, seconds: float) -> None:
        """Set the next size by the rate of this piece; a small one says nothing about the rate."""
        if rows >= self._least:
            wanted = int(rows * self._seconds / max(seconds, 1e-6))
            # At most doubled: one lucky piece must not lead to a second-long one when the disk then stalls.
            self.rows = max(self._least, min(wanted, 2 * self.rows, _MOST_ROWS))
