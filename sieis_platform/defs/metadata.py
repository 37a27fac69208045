"""Metadata that every derived asset shows the same way: columns, rows, time range, table version, a preview.

Belongs here: the shape of metadata. Not here: values.
"""

from collections.abc import Mapping
from typing import Final

import dagster as dg
import polars as pl

OWNERS: Final = ["team:sieis"]
_PREVIEW_ROWS: Final = 5


def columns(schema: pl.Schema, descriptions: Mapping[str, str] | None = None) -> dict[str, dg.TableSchema]:
    """Column metadata of a table, for an asset's definition."""
    described = descriptions or {}
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(name, str(kind).lower(), description=described.get(name))
                for name, kind in schema.items()
            ]
        )
    }


def written(
    rows: int, preview: pl.DataFrame, *, mart_version: int, archive_version: int, time_column: str = "timestamp"
) -> dict[str, dg.MetadataValue]:
    """Metadata of one materialization: what was written, from which version of the archive, and its first rows.

    `preview`: the rows written, with `time_column` in Unix ns.
    """
    entries: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "mart_version": dg.MetadataValue.int(mart_version),
        "archive_version": dg.MetadataValue.int(archive_version),
    }
    if not preview.is_empty():
        moments = preview.select(
            pl.from_epoch(pl.col(time_column).min(), time_unit="ns").dt.to_string("iso:strict").alias("first"),
            pl.from_epoch(pl.col(time_column).max(), time_unit="ns").dt.to_string("iso:strict").alias("last"),
        ).row(0)
        entries["first"], entries["last"] = (dg.MetadataValue.text(f"{moment}Z") for moment in moments)
        entries["preview"] = dg.MetadataValue.md(markdown(preview.head(_PREVIEW_ROWS)))
    return entries


def markdown(frame: pl.DataFrame) -> str:
    """All rows of a small frame as a table in Markdown, numbers to three decimals."""
    with pl.Config(
        tbl_formatting="ASCII_MARKDOWN",
        tbl_hide_column_data_types=True,
        tbl_hide_dataframe_shape=True,
        tbl_cols=-1,
        tbl_width_chars=10_000,
        float_precision=3,
    ):
        return str(frame)
