"""The command line: one module per command, registered in this order by being imported."""

# ruff: noqa: F401, I001
from gencli.cli import (
    tokenize,
    pretrain,
    finetune,
    align,
    generate,
    chat,
    classify,
    evaluate,
    encode,
    inspect,
    export,
    bench,
    verify,
    demo,
)
