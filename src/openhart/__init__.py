"""OpenHART: text to image by next-scale prediction, after HART (arXiv 2410.10812)."""
