"""What classifiers predict for the test images, from the per-item results that finished runs keep."""
