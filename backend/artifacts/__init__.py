"""Files: what runs leave behind, and uploaded weights of teachers."""
