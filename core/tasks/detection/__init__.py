"""Detection of objects: data sets, detectors, the boxes that student and teacher are compared on, and metrics."""
