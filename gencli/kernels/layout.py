"""Where a model's weights, and the scratch memory of its forward pass, stand in the tables of addresses.

Legend: L layers, V vocabulary, W width, H heads, K key-value heads, D head width, F hidden, M tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from gencli.kernels.room import whole

BLOCK = 16  # rows of packed weights that lie side by side
GROUP = 64  # numbers of a token's vector that share a scale
KEY_GROUP = 32  # numbers of a query that share a scale

# Weights: a row for each layer, and one for the end; each has two words, its address and that of its scales.
ATTENTION_NORM, QUERY, KEY, VALUE, QUERY_NORM, KEY_NORM, OUTPUT, MLP_NORM, GATE, UP, DOWN = range(0, 22, 2)
FINAL_NORM, HEAD = 0, 2
WEIGHT_WORDS = 22

# Sizes; the slots are what scratch for attention holds: all that a row may have, in whole groups.
LAYERS, WIDTH, HEADS, SHARED_HEADS, HEAD_WIDTH, HIDDEN, VOCABULARY, SLOTS = range(8)

# Counts of a call
TOKENS, WANTED, APART = range(3)

ROOM_ROWS = 17  # of scratch for attention: scores and values of 8 queries, and the sums of their scores

# Scratch: a row for each thread; what all threads write is in the first one.
X, NORMED, NUMBERS, FACTORS, CORRECTIONS, QUERIES, ROOM = range(7)
RAW_QUERIES, RAW_KEYS, RAW_VALUES, JOINED, CHANGE, GATES, UPS, INNER, LAST = range(7, 16)
SEEN_NUMBERS, SEEN_FACTORS, SEEN_CORRECTIONS = range(16, 19)  # a vector of slots, or a query, rounded


def scratch_words(sizes: Sequence[int], tokens: int) -> list[int]:
    """Return how many words of 32 bits each kind of scratch takes for so many tokens."""
    width, heads, shared, head_width, hidden = sizes[WIDTH:VOCABULARY]
    attention, keys = heads * head_width, shared * head_width
    widest = whole(max(width, attention, hidden), GROUP)
    of_a_token = [
        width, widest, widest // 4, widest // GROUP, widest // GROUP, attention, 0,
        whole(attention, BLOCK), whole(keys, BLOCK), whole(keys, BLOCK), attention, whole(width, BLOCK),
        whole(hidden, BLOCK), whole(hidden, BLOCK), hidden, width, 0, 0, 0,
    ]  # fmt: skip
    words = [tokens * each for each in of_a_token]
    words[ROOM] = ROOM_ROWS * sizes[SLOTS]
    words[SEEN_NUMBERS] = sizes[SLOTS] // 4
    words[SEEN_FACTORS] = words[SEEN_CORRECTIONS] = sizes[SLOTS] // KEY_GROUP
    return words
