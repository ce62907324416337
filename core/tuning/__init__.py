"""Settings chosen on held-out images before the first test evaluation: search spaces, trials and the choice."""
