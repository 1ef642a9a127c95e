"""Published scales: the sides of the code maps, by the side of the square image in pixels."""

PUBLISHED_SCALES = {
    128: (1, 2, 3, 4, 6, 8),
    256: (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
    512: (1, 2, 3, 4, 6, 9, 13, 18, 24, 32),
    1024: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64),
    2048: (1, 2, 3, 4, 5, 7, 9, 12, 16, 21, 27, 36, 48, 64, 96, 128),
}
"""For tokenizers that reduce each side by a factor of 16. The scales for 256 and 512 pixels are those of VAR
(arXiv 2404.02905), those for 256 to 1,024 pixels are HART's (arXiv 2410.10812), and those for 128 pixels are
used by OpenHART's packaged model. Those for 2,048 pixels continue HART's sequence, to measure speed."""
