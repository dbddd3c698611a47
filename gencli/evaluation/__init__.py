"""How good a model is.

text         the cost of a text in bits per byte
pairs        loss and exact match on labelled pairs
"""
