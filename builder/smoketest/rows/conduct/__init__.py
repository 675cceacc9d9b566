"""How the kernels behave in company: streams, graphs, threads, devices, compilers, errors."""
