"""The emoji corpus: captioned images of single things, and scenes with several things."""
