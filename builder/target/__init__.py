"""The first step: what to build, for which architectures, and from which release."""
