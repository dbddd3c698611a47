"""Bringing a fine-tuned model nearer to what is wanted: by preferences, or by a reward."""
