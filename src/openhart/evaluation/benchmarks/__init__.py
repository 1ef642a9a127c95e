"""Benchmarks, one file each: a benchmark reads prompts or images and scores them."""
