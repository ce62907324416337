"""The detectors of the catalog, built on the parts of torchvision."""
