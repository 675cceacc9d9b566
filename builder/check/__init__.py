"""What is checked of a finished wheel: audit, import, compatibility, smoke test."""
