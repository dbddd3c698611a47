"""Faults, injected for real: kills, power loss, full disks, flipped bits, signals, numbers that are not finite.

    python -m tests.faults [--full] [NAME ...]

Each fault prints one JSON line: how many trials it made and what came of them. The tests run a fast selection.
"""
