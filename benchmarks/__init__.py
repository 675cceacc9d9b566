"""Measurements: how fast a build is, and how fast the kernels are."""
