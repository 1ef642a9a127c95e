"""A blind pairwise comparison of folders of images by people."""
