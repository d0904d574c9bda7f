"""The Vision Transformer: families, building, saving, preprocessing, freezing, the split."""
