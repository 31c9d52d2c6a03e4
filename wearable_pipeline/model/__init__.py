"""What a table is: columns, units, time, code lists, and the renderings made from them."""

from wearable_pipeline.model.activity import ACTIVITY
from wearable_pipeline.model.athlete import ATHLETE
from wearable_pipeline.model.body import BODY
from wearable_pipeline.model.columns import Column, Table
from wearable_pipeline.model.daily import DAILY
from wearable_pipeline.model.menstruation import MENSTRUATION
from wearable_pipeline.model.nutrition import NUTRITION
from wearable_pipeline.model.sleep import SLEEP

TABLES: dict[str, Table] = {
    table.name: table for table in (ACTIVITY, BODY, DAILY, SLEEP, MENSTRUATION, NUTRITION, ATHLETE)
}

__all__ = ["TABLES", "Column", "Table"]
