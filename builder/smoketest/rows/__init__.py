"""The functions that run the rows, a module or folder for each group; `builder.smoketest.plan` lists them."""
