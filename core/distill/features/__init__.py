"""Methods that read inner layers beside the logits."""
