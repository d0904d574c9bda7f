"""The Vision Transformer: families, building, saving, preprocessing, freezing, and the split at the
freeze boundary."""
