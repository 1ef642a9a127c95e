"""Colours by name."""

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
