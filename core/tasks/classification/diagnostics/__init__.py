"""Measurements of networks and trainings in addition to the loss."""
