"""How the rows are run: in worker processes, which a supervisor follows."""
