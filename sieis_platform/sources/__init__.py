"""Where readings come from: the Intel Lab file, the generator and the download. Nothing here writes to a store."""
