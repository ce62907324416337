"""Experiments: creation from specs, lists, changes, and conversion of rows to the API's models."""
