"""What scikit-learn makes of labelled rows, and what looking up the most similar prompt makes of answers."""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score

from gencli.evaluation.measures import token_f1

Row = tuple[str, str]
FEATURES = {
    "words 1-2": {"analyzer": "word", "ngram_range": (1, 2)},
    "characters 2-4": {"analyzer": "char", "ngram_range": (2, 4)},
}
STRENGTH = 10.0  # of the fit against the prior: C of scikit-learn; better than its default on all the sets


def best_linear(train: Sequence[Row], test: Sequence[Row], figure: str) -> tuple[float, str]:
    """Return the better accuracy or macro-F1 of the two kinds of features, and which it was."""
    found = {}
    for name, options in FEATURES.items():
        vectorizer = TfidfVectorizer(**options)
        inputs = vectorizer.fit_transform([text for text, _ in train])
        model = LogisticRegression(C=STRENGTH, max_iter=1000).fit(inputs, [label for _, label in train])
        said = model.predict(vectorizer.transform([text for text, _ in test]))
        truth = [label for _, label in test]
        found[name] = float(
            accuracy_score(truth, said) if figure == "accuracy" else f1_score(truth, said, average="macro")
        )
    best = max(found, key=found.__getitem__)
    return found[best], best


def nearest_answers(train: Sequence[Row], test: Sequence[Row]) -> dict[str, float]:
    """Return the figures of the answers that belong to the most similar prompts, by cosine of character TF-IDF."""
    vectorizer = TfidfVectorizer(**FEATURES["characters 2-4"])
    known = vectorizer.fit_transform([prompt for prompt, _ in train])
    nearest = (vectorizer.transform([prompt for prompt, _ in test]) @ known.T).toarray().argmax(axis=1)
    said, expected = [train[place][1] for place in nearest], [answer for _, answer in test]
    return {
        "chrf": CHRF().corpus_score(said, [expected]).score,
        "bleu": BLEU().corpus_score(said, [expected]).score,
        "token_f1": sum(token_f1(s, e) for s, e in zip(said, expected, strict=True)) / len(test),
        "exact_match": sum(s.strip() == e.strip() for s, e in zip(said, expected, strict=True)) / len(test),
    }
