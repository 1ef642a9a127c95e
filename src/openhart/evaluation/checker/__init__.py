"""A detector of drawn things on a plain background, trained on rendered scenes without any download."""
