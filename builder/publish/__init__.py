"""The package index, the release, and what is newer upstream."""
