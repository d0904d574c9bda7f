"""What the predictions are worth: measures, calibration, mistakes, and their pictures."""
