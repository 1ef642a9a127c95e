"""Networks and hand-made descriptors that turn images and texts into features."""
