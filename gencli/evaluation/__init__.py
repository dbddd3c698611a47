"""How good a model is.

cost         what batches cost a model, in whatever way it computes
text         the cost of a text in bits per byte
pairs        loss and exact match on labelled pairs
"""
