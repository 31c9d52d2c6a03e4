"""From verbatim records to the tables: parse, reject, map, merge revisions, write."""
