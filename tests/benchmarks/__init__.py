"""Scripts that print one JSON line per figure; the tests never run them."""
