"""The demo's own corpus: a small world told in Korean and English by a deterministic grammar.

grammar      Korean particles, English articles
lexicon      people, places, things, verbs
sentences    plain statements in both languages; what is held out
opinions     sentences with a good or a bad feeling
scenes       two or three sentences with questions and answers
documents    stories and pages of a phrase book
pairs        labelled pairs
"""

from __future__ import annotations

from gencli.text.stories.documents import corpus_text, stories
from gencli.text.stories.pairs import Example, examples, pairs_lines

__all__ = ["Example", "corpus_text", "examples", "pairs_lines", "stories"]
