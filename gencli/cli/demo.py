"""gencli demo: placeholder until written in full."""
