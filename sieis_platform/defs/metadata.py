"""Metadata that every asset shows the same way: columns and where they come from, rows, time range, version, preview.

Belongs here: the shape of metadata. Not here: values.
"""

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

import dagster as dg
import polars as pl
import polars.selectors as cs

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


#: Columns of an asset → the columns of other assets they are made of.
Origins = Mapping[str, Iterable[tuple[dg.AssetKey, str]]]


def same_columns(names: Iterable[str], source: dg.AssetKey) -> dict[str, list[tuple[dg.AssetKey, str]]]:
    """Origins of columns that are those of `source` under the same name."""
    return {name: [(source, name)] for name in names}


def lineage(origins: Origins) -> dict[str, dg.TableColumnLineage]:
    """Column lineage, for an asset's definition; materializations repeat it (`lineage_of`), the UI draws theirs."""
    return {
        "dagster/column_lineage": dg.TableColumnLineage(
            {name: [dg.TableColumnDep(key, column) for key, column in sources] for name, sources in origins.items()}
        )
    }


def lineage_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The column lineage within an asset's defined metadata."""
    return {name: value for name, value in metadata.items() if name == "dagster/column_lineage"}


def labels(layer: Literal["raw", "derived", "model", "operations"], store: str) -> dict[str, str]:
    """Tags by which the catalog is searched: how far an asset is from the sensors, and where it lies."""
    return {"layer": layer, "store": store}


#: Metadata of one partition: its rows. Dagster's own name, as `dagster/row_count` is of the whole table.
PARTITION_ROWS: Final = "dagster/partition_row_count"


def written(
    table_rows: int,
    preview: pl.DataFrame,
    *,
    mart_version: int,
    archive_version: int,
    archive_table: str,
    time_column: str = "timestamp",
    plot: str | None = None,
) -> dict[str, dg.MetadataValue]:
    """Metadata of one materialization: what was written, from which version of the archive, and its first rows.

    `table_rows`: all rows of the mart with it. `preview`: the rows written, with `time_column` in Unix ns. `plot`:
    markdown (defs/plot.py).
    """
    entries = {
        **kept(table_rows, preview, mart_version=mart_version, times=times_of(preview, time_column)),
        "rows_written": dg.MetadataValue.int(preview.height),
        "archive_version": dg.MetadataValue.int(archive_version),
        "archive_table": dg.MetadataValue.text(archive_table),
    }
    if plot:
        entries["plot"] = dg.MetadataValue.md(plot)
    return entries


def rows_by_day(frame: pl.DataFrame) -> dict[str, int]:
    """Rows of each value of `date` that has any."""
    return dict(frame.group_by("date").len().iter_rows())


#: First and last moment of a table, Unix ns; None without rows.
Times = tuple[int | None, int | None]


def times_of(frame: pl.DataFrame, column: str) -> Times:
    """The range of a column in Unix ns."""
    return frame.select(pl.col(column).min().alias("first"), pl.col(column).max().alias("last")).row(0)


def kept(rows: int, shown: pl.DataFrame, *, mart_version: int, times: Times) -> dict[str, dg.MetadataValue]:
    """Metadata of a mart: how many rows it has, its version, its time range, and the first rows of `shown`."""
    entries: dict[str, dg.MetadataValue] = {
        "dagster/row_count": dg.MetadataValue.int(rows),
        "mart_version": dg.MetadataValue.int(mart_version),
        "preview": preview_of(shown),
    }
    for name, ns in zip(("first", "last"), times, strict=True):
        if ns is not None:
            said = pl.select(pl.from_epoch(pl.lit(ns), time_unit="ns").dt.to_string("iso:strict")).item()
            entries[name] = dg.MetadataValue.text(f"{said}Z")
    return entries


def archive_version_of(made: dg.AssetMaterialization, table: str) -> int | None:
    """Version of the archive with the id `table` that an asset was made from (`written`); None: from another archive.

    An archive made anew counts its versions from 0 again, so that a number alone says nothing.
    """
    version, of = made.metadata.get("archive_version"), made.metadata.get("archive_table")
    return int(str(version.value)) if version and of and of.value == table else None


def preview_of(frame: pl.DataFrame, rows: int = _PREVIEW_ROWS) -> dg.MetadataValue:
    """The first rows as a table."""
    return dg.MetadataValue.md(markdown(frame.head(rows)))


def moment(seconds: float | None) -> str:
    """Unix seconds as ISO 8601, UTC."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat() if seconds is not None else "never"


def markdown(frame: pl.DataFrame) -> str:
    """All rows of a small frame as a table in Markdown, numbers to three decimals.

    Not Polars' own (`pl.Config(tbl_formatting=…)`): it is set through the environment, and an environment that changes
    while deltalake's threads read it (C's getenv) ended a process now and then. It also shortens rows and texts.
    """
    cells = frame.with_columns(cs.float().round(3)).iter_rows()
    rows = [frame.columns, ["---"] * frame.width, *cells]
    return "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows)


def _cell(value: object) -> str:
    return "null" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
