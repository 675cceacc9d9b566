"""The compilers of a build, and torch: each in a folder with a marker that is written last."""
