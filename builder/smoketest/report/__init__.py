"""The result of a run: rows, exit codes, the table and the picture."""
