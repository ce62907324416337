"""Measures what a training does to its machine. Free of torch; nothing here can make a training fail."""
