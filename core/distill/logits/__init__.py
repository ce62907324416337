"""The methods that read logits alone, one module each."""
