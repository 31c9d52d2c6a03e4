"""Values behind which there may be none: what stands for nothing measured, nothing written."""

import polars as pl


def positive(name: str) -> pl.Expr:
    """A value where zero and less mean that there is none."""
    return pl.when(pl.col(name) > 0).then(pl.col(name))


def written(name: str) -> pl.Expr:
    """A text column, null where nothing is written."""
    stripped = pl.col(name).str.strip_chars()
    return pl.when(stripped != "").then(stripped)
