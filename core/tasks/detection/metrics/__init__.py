"""What is measured of a detector: AP, agreement with the teacher, calibration and errors by kind."""
