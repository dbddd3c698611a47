"""The command line: one module per command, registered by being imported."""

from gencli.cli import (  # noqa: F401
    demo,  # isort: skip
    encode,  # isort: skip
    evaluate,  # isort: skip
    finetune,  # isort: skip
    generate,  # isort: skip
    inspect,  # isort: skip
    pretrain,  # isort: skip
    tokenize,  # isort: skip
)
