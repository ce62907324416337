"""Sign-in: passwords, ID tokens, and the sessions that they begin."""
