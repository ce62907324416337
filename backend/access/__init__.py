"""What surrounds the check of a token: its rotation, its last use, the limits of requests, and the end of streams."""
