"""`python -m wearable_pipeline.cli`."""

from wearable_pipeline.cli import app

app()
