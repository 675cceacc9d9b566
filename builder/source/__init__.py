"""The source tree: obtained, verified and patched."""
