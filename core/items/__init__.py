"""Per-item results: what each test sample got from a run's network and from its teacher. Free of torch."""
