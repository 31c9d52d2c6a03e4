"""Providers for demos and tests: servers that speak their wire formats for synthetic people."""
