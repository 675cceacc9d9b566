"""The first step: what to build, and the release that it is built from."""
