"""The list of motes: where they hang, and whether they are known and heard."""
