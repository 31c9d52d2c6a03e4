"""What dbt-duckdb loads from `dbt_project/profiles.yml`: it gives dbt's connection the lake.

The settings are the pipeline's own, so that an address or a key is said in one place.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dbt.adapters.duckdb.plugins import BasePlugin
from dbt_common.exceptions import DbtRuntimeError

from wearable_pipeline.errors import PipelineError, UsageError
from wearable_pipeline.lake.catalog import glob_uri, sql_text
from wearable_pipeline.lake.storage import Storage
from wearable_pipeline.settings import load_settings

if TYPE_CHECKING:
    import duckdb

MARTS = "marts"
_RELATIVE = "a relative path starts at the dbt project, where dbt changes to"


class Plugin(BasePlugin):
    """Opens the lake on each connection; its place is in the variables `lake_url`, `lake_glob`."""

    def initialize(self, plugin_config: dict[str, object]) -> None:
        """Opens the lake the configuration names, or else the settings.

        Refuses to guess: marts of a lake that is not there would all be empty, and green.
        """
        try:
            self._storage = _open_storage(str(plugin_config.get("lake_url") or ""))
        except PipelineError as error:
            raise DbtRuntimeError(str(error)) from None

    def configure_connection(self, conn: "duckdb.DuckDBPyConnection") -> None:
        """Makes `conn` able to read and write the lake."""
        self._storage.prepare_duckdb(conn)
        if self._storage.is_local:
            # DuckDB writes into folders but makes none.
            (Path(self._storage.url) / MARTS).mkdir(exist_ok=True)

    def configure_cursor(self, cursor: "duckdb.DuckDBPyConnection") -> None:
        """Tells `cursor` where the lake is; variables do not outlive a copy of the connection."""
        pattern = glob_uri(self._storage, "").removesuffix("/")
        cursor.execute(f"SET VARIABLE lake_url = {sql_text(self._storage.url)}")
        cursor.execute(f"SET VARIABLE lake_glob = {sql_text(pattern)}")


def _open_storage(lake_url: str) -> Storage:
    settings = load_settings()
    if not lake_url and not settings.model_fields_set & {"home", "lake_url"}:
        raise UsageError(f"which lake? Set WEARABLE_LAKE_URL or WEARABLE_HOME; {_RELATIVE}")
    storage = Storage.open(lake_url or settings.lake, settings)
    if storage.is_local and not Path(storage.url).is_dir():
        raise UsageError(
            f"there is no lake at {storage.url}: set WEARABLE_LAKE_URL or WEARABLE_HOME;"
            f" {_RELATIVE}"
        )
    return storage
