"""Kinds of activities: a provider's words as those of the code list."""

from collections.abc import Mapping

import polars as pl

from wearable_pipeline.model.enums import ACTIVITY_TYPE

# The code list's own words, for providers that use some of them.
OWN_WORDS: Mapping[str, str] = {name: name for name in map(str, ACTIVITY_TYPE.names.values())}


def activity_type(word: pl.Expr, names: Mapping[str, str]) -> pl.Expr:
    """The kind `names` has for a word; one nobody has met is some activity, none at all no known one."""
    return pl.when(word.is_not_null()).then(
        word.replace_strict(dict(names), default="other", return_dtype=pl.String)
    )
