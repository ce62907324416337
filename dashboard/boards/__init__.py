"""Compare's board: its layout in the address, what it offers, and its stored layouts."""
