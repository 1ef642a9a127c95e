"""Image tokenizers: image ↔ features, and features ↔ codes of several scales plus a continuous residual."""
