"""Distillation: rows of logits in, a loss with its terms out."""
