"""A self-hosted data lake for wearables: providers → raw → tables → lake → destinations."""

__version__ = "0.1.0"
