"""The PEP 517 build: jobs, the compiler cache and progress."""
