"""Train a small GPT on your own text and get text out of it."""

__version__ = "0.1.0"
