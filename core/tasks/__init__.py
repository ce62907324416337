"""The tasks: what the data are, what a network returns, and how it is measured."""
