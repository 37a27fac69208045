"""What is told of the archive with every event about it: version, weight, days; from its logs alone.

Belongs here: that metadata. Not here: who tells it, and what else.
"""

import dagster as dg
import polars as pl

from sieis_platform.defs import plot
from sieis_platform.defs.metadata import preview_of
from sieis_platform.defs.partitions import Window
from sieis_platform.stores.archive import Archive
from sieis_platform.stores.files import TableFiles


def told_of(archive: Archive, files: TableFiles, window: Window | None = None) -> dict[str, dg.MetadataValue]:
    """Metadata of the archive at a version, of all days or those of `window`; the preview shows the newest of them."""
    days = archive.weight_by_day(files, None if window is None else window.first)
    if window is not None:
        days = days.filter(pl.col("date").is_between(window.first, window.last))
    metadata: dict[str, dg.MetadataValue] = {
        "version": dg.MetadataValue.int(files.version),
        "dagster/row_count": dg.MetadataValue.int(int(days["rows"].sum())),
        "files": dg.MetadataValue.int(int(days["files"].sum())),
        "bytes": dg.MetadataValue.int(int(days["bytes"].sum())),
        "days": dg.MetadataValue.int(days.height),
        "preview": preview_of(days.sort("date", descending=True)),
    }
    if days.height:
        metadata["first_day"] = dg.MetadataValue.text(days["date"][0].isoformat())
        metadata["last_day"] = dg.MetadataValue.text(days["date"][-1].isoformat())
    if drawn := plot.lines({"readings a day": days["rows"].cast(pl.Float64).to_list()}):
        metadata["plot"] = dg.MetadataValue.md(drawn)
    return metadata
