"""The `sieis` command: the composition root, one module a command group."""
