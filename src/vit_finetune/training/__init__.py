"""Fine-tuning: the recipe (probe, epochs, choice), the loop over batches, augmentation."""
