"""Verbatim records: the client that fetches, the doors they come in by, the store that keeps them."""
