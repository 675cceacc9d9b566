"""What a run comes to: rows, exit codes, the table and the picture."""
