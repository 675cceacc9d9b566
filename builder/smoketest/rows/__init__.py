"""The functions that run the rows, one module or folder a group; `builder.smoketest.plan` names them."""
