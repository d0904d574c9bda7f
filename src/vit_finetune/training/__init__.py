"""Fine-tuning: the recipe (probe, epochs, best epoch), the loop over batches, augmentation."""
