"""What is in the images, and what is known about it: the SBOMs and the check of advisories."""
