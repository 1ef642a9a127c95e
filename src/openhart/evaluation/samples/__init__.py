"""Folders of generated images in the published layouts of benchmarks; resumable, by several processes."""
