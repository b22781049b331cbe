"""One module per library or loop that `bench.peers` measures, each run by its own interpreter."""
