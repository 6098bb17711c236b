"""One file per command: each composes the layers below and returns what it made. `cli.py` and `jobs/` call these."""
