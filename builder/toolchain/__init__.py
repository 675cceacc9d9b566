"""The CUDA compiler, the host compiler and the build's environment."""
