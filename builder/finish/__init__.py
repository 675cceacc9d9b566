"""From the compiled wheel to the wheelhouse: repair, provenance and the record."""
