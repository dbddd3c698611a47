"""Every knob of every command, once: its type, default, range and help.

The options of the command line, the keys of a `--config` file, the settings kept with a model and the
table in the README are all derived from these classes.
"""

from gencli.settings.alignment import AlignSettings
from gencli.settings.common import MachineChoice, OneModel, Reading, TokenizerChoice
from gencli.settings.decoding import (
    BenchSettings,
    ChatSettings,
    ClassifySettings,
    EngineChoice,
    GenerateSettings,
    SamplingChoice,
    WritingChoice,
)
from gencli.settings.tools import (
    DecodeSettings,
    DemoSettings,
    EncodeSettings,
    EvaluateSettings,
    ExportSettings,
    InspectSettings,
    TokenizeSettings,
    VerifySettings,
)
from gencli.settings.training import FinetuneSettings, PretrainSettings, Training

__all__ = [
    "AlignSettings",
    "BenchSettings",
    "ChatSettings",
    "ClassifySettings",
    "DecodeSettings",
    "DemoSettings",
    "EncodeSettings",
    "EngineChoice",
    "EvaluateSettings",
    "ExportSettings",
    "FinetuneSettings",
    "GenerateSettings",
    "InspectSettings",
    "MachineChoice",
    "OneModel",
    "PretrainSettings",
    "Reading",
    "SamplingChoice",
    "TokenizeSettings",
    "TokenizerChoice",
    "Training",
    "VerifySettings",
    "WritingChoice",
]
