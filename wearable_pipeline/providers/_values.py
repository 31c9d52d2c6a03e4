"""Values behind which there may be none: what stands for nothing measured, nothing written."""

import polars as pl


def positive(name: str) -> pl.Expr:
    """A value where zero and less mean that there is none."""
    return pl.when(pl.col(name) > 0).then(pl.col(name))


def not_empty(lists: pl.Expr) -> pl.Expr:
    """A list column, null where nothing is in the list."""
    return pl.when(lists.list.len() > 0).then(lists)


def written(name: str) -> pl.Expr:
    """A text column, null where nothing is written."""
    stripped = pl.col(name).str.strip_chars()
    return pl.when(stripped != "").then(stripped)
