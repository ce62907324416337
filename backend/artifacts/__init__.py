"""Files that runs have written, and uploaded weights of teachers."""
