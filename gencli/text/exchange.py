"""The same tokenizer for the `tokenizers` and `transformers` libraries: the same ids for the same text.

SentencePiece merges the neighbours whose union scores highest, the leftmost first; `tokenizers` takes merges
in the order of a list. The list has every way to put a piece together from two, in the order of the scores.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gencli.text.pieces import SPACE
from gencli.text.tokenizer import BOS, EOS, LAYOUT, NEWLINE_ID, PAD, ROLE_MARKERS, UNK

if TYPE_CHECKING:
    from gencli.text.tokenizer import Tokenizer

_OUT_OF_REACH = 4  # times the cost of spelling the longest special piece
HUGGING_FACE_FILES = ("tokenizer.json", "tokenizer_config.json")


def hugging_face_files(tokenizer: Tokenizer, *, chat: bool, context: int) -> dict[str, str]:
    """Return the texts of tokenizer.json and tokenizer_config.json by file name.

    Read by `tokenizers` or `transformers`, a text gives `<s>` and then gencli's ids. For a `chat` model the
    control markers in a text count as control pieces, as `apply_chat_template` needs; gencli's ids for a text
    in which they are typed come with `split_special_tokens=True`, which is the default of other models.
    `context` is the number of tokens that the model can look back on.
    """
    texts = (_as_json(_tokenizer_json(tokenizer)), _as_json(_tokenizer_config(chat=chat, context=context)))
    return dict(zip(HUGGING_FACE_FILES, texts, strict=True))


def chat_template(*, marks_learned: bool = True) -> str:
    """Return the Jinja template that renders a conversation as `gencli.text.chat.chat_ids` does.

    With `marks_learned` it also tells transformers which part a model learns, by a tag that only they know.
    """
    answer = f"{{% generation %}}{_ANSWER}{{% endgeneration %}}" if marks_learned else _ANSWER
    branches = [
        f"{{%- {'if' if index == 0 else 'elif'} message['role'] == '{role}' -%}}{{{{ '{marker}' }}}}"
        + (answer if role == "assistant" else "{{ message['content'] }}")
        for index, (role, marker) in enumerate(ROLE_MARKERS.items())
    ]
    refuse = "{%- else -%}{{ raise_exception('the role is none of: ' + '" + ", ".join(ROLE_MARKERS) + "') }}"
    prompt = f"{{%- if add_generation_prompt -%}}{{{{ '{ROLE_MARKERS['assistant']}' }}}}{{%- endif -%}}"
    start = f"{{{{- '{LAYOUT[BOS][0]}' -}}}}{{%- for message in messages -%}}"
    return "".join([start, *branches, refuse, "{%- endif -%}{%- endfor -%}", prompt])


_ANSWER = "{{ message['content'] }}{{ '" + LAYOUT[EOS][0] + "' }}"


def _tokenizer_json(tokenizer: Tokenizer) -> dict[str, Any]:
    bos = LAYOUT[BOS][0]
    first = {"SpecialToken": {"id": bos, "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(index) for index in range(NEWLINE_ID + 1)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [first, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [BOS], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": _unigram(tokenizer) if tokenizer.kind == "unigram" else _bpe(tokenizer),
    }


def _tokenizer_config(*, chat: bool, context: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": LAYOUT[UNK][0],
        "bos_token": LAYOUT[BOS][0],
        "eos_token": LAYOUT[EOS][0],
        "pad_token": LAYOUT[PAD][0],
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": not chat,
    }
    return {**config, "chat_template": chat_template()} if chat else config


def _added_token(index: int) -> dict[str, Any]:
    """Describe a piece that is looked for in the raw text first: a control piece or the newline."""
    return {
        "id": index,
        "content": LAYOUT[index][0],
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": index != NEWLINE_ID,
    }


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    pieces = tokenizer.model.pieces
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": LAYOUT[UNK][0],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": {piece.text: index for index, piece in enumerate(pieces)},
        "merges": _merges(tokenizer) if tokenizer.kind == "bpe" else [],
    }


def _merges(tokenizer: Tokenizer) -> list[list[str]]:
    """Return the pairs that make a piece, in the order in which SentencePiece takes them."""
    normal = tokenizer.model.pieces[len(LAYOUT) :]
    known = {piece.text for piece in normal}
    return [
        [text[:cut], text[cut:]]
        for text in (piece.text for piece in sorted(normal, key=lambda piece: -piece.score))
        for cut in range(len(text) - 1, 0, -1)
        if text[:cut] in known and text[cut:] in known
    ]


def _unigram(tokenizer: Tokenizer) -> dict[str, Any]:
    """Describe a unigram model; special pieces cost more than their spelling, so no text becomes one."""
    pieces = tokenizer.model.pieces
    lowest = min((piece.score for piece in pieces[len(LAYOUT) :]), default=-1.0)
    longest = max(len(text) for text, _ in LAYOUT)
    special = _OUT_OF_REACH * longest * (lowest - 1)
    scores = [special] * len(LAYOUT) + [piece.score for piece in pieces[len(LAYOUT) :]]
    return {
        "type": "Unigram",
        "unk_id": UNK,
        "byte_fallback": True,
        "vocab": [[piece.text, score] for piece, score in zip(pieces, scores, strict=True)],
    }


def _as_json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
