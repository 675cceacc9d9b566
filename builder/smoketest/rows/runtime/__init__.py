"""How the kernels behave with streams, graphs, threads, devices, compilers and errors."""
