"""Builds, checks and ships SageAttention wheels; the code behind the nox sessions."""
