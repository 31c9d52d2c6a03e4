"""A self-hosted data lake for wearables: providers → raw → tables → lake → destinations."""

from wearable_pipeline import _quiet as _quiet

__version__ = "0.2.0"
