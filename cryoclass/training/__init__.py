"""Fine-tuning: splits, augmentation, recipes, the loop and the scores."""
