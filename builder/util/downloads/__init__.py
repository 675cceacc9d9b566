"""Downloads that are verified, and how far they are."""
