"""Reading and writing wheels, shared libraries and GPU code."""
