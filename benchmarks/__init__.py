"""Speed and size, each beside its own limit in the same run. `make bench` prints the tables."""
