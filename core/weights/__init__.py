"""Files of weights: reading them safely, their keys and their metadata."""
