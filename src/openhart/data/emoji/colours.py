"""The colours of the emoji corpus by name: those of backgrounds, and those of recoloured things."""

BACKGROUNDS = {
    "light blue": (173, 216, 240),
    "pink": (255, 192, 210),
    "yellow": (255, 230, 110),
    "mint green": (170, 235, 200),
    "lavender": (215, 200, 245),
    "orange": (255, 180, 100),
    "grey": (200, 200, 200),
    "black": (20, 20, 20),
}
WHITE = (255, 255, 255)
COLOURS = {
    "red": (0.58, 0.22, 27),
    "orange": (0.74, 0.17, 58),
    "yellow": (0.88, 0.17, 97),
    "green": (0.62, 0.17, 144),
    "blue": (0.55, 0.18, 258),
    "purple": (0.50, 0.19, 305),
    "pink": (0.77, 0.14, 355),
    "brown": (0.42, 0.08, 52),
    "black": (0.27, 0.0, 0),
    "white": (0.96, 0.0, 0),
}
"""GenEval's ten colours (arXiv 2310.11513): typical Oklab lightness, chroma, and hue in degrees."""
