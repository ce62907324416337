"""The science: specs, losses, models, data, the training engine. Trains without any service."""
