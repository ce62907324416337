"""The backend against MLflow's server over HTTP, and how it answers as its database grows."""
