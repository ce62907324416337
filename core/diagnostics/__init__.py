"""What a training measures beside its loss."""
