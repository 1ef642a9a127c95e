"""The loop over scales, its settings, and the choice of codes from logits."""
