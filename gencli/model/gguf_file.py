"""A model as one GGUF file, which llama.cpp and the programs around it run: same ids, same logits.

llama.cpp has the architecture, qwen3. It knows two of SentencePiece's ways to find pieces: `llama` merges the
neighbours whose union scores highest, as a bpe or char model does, and `t5` takes the likeliest pieces, as a
unigram model does. The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gencli import __version__, storage
from gencli.errors import MachineError, ModelError, RunStateError
from gencli.storage import check_space, staged_file
from gencli.text.exchange import chat_template

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gencli.model.folder import ModelFolder
    from gencli.model.shape import Shape
    from gencli.text.tokenizer import Tokenizer

GgufPrecision = Literal["float32", "float16", "q8_0"]
_MAGIC = b"GGUF"
_ARCHITECTURE = "qwen3"
_BLOCK = 32  # numbers of a row that share a scale in q8_0
_TOKENIZER_MODELS = {"bpe": "llama", "char": "llama", "unigram": "t5"}
_MOST_HALF = 65_504.0  # the largest number of half precision, in which the scales of q8_0 are too
_SPARE_BYTES = 1 << 20  # more than all that is no tensor and no piece


def write_gguf(
    folder: ModelFolder,
    path: Path,
    *,
    precision: GgufPrecision = "float32",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the model as `path`, which appears as a whole; return its bytes.

    `progress` hears after each tensor how many bytes of the weights are done. Vectors stay float32. A matrix
    whose rows are no multiple of 32 numbers is float16 in place of q8_0. Raises MachineError when the library
    gguf is missing or the disk refuses, RunStateError for a path that is taken, ModelError for weights that
    the precision can't hold.
    """
    gguf = _library()
    check_place(path, overwrite=overwrite)
    weights = folder.weights()
    stored = {name: _type_of(array, precision) for name, array in weights.items()}
    sizes = {name: _bytes_of(array, stored[name]) for name, array in weights.items()}
    check_space(path.parent, sum(sizes.values()) + _SPARE_BYTES + 64 * folder.shape.vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, folder.shape.layers)
    with staged_file(path) as staging:
        storage.watch("write", staging)
        writer = gguf.GGUFWriter(staging, _ARCHITECTURE)
        try:
            _add_facts(writer, folder, precision)
            for name, array in weights.items():
                theirs = names.get_name(name, try_suffixes=(".weight",))
                _announce(writer, theirs, array, stored[name], sizes[name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            done = 0
            for name, array in weights.items():
                writer.write_tensor_data(_converted(name, array, stored[name]))
                done += array.nbytes
                progress(done)
        finally:
            writer.close()
        return staging.stat().st_size


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise RunStateError unless a GGUF file may be written to `path`: nothing but such a file is replaced."""
    if not path.exists():
        return
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "this is not a regular file"
        raise RunStateError(
            what, where=str(path), kept="nothing was touched", hint=f"-o {path / 'tale.gguf'}"
        )
    with storage.told_as_machine_error(path), path.open("rb") as file:
        is_ours = file.read(len(_MAGIC)) in (_MAGIC, b"")
    if not is_ours:
        raise RunStateError(
            "the file that is there is no GGUF file",
            where=str(path),
            kept="nothing was touched",
            hint="another name after -o",
        )
    if not overwrite:
        raise RunStateError(
            "there is such a file already",
            where=str(path),
            kept="nothing was touched",
            hint="--overwrite, or another name after -o",
        )


def uneven(shape: Shape) -> bool:
    """Tell whether q8_0 can't hold some matrix of a model."""
    return any(rows > 1 and columns % _BLOCK for rows, columns in shape.tensors().values())


def _library() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MachineError(
            "the library gguf, which writes such files, is not installed",
            hint=f"{sys.executable} -m pip install gguf",
        ) from error
    return gguf


def _type_of(array: NDArray[np.float32], precision: GgufPrecision) -> GgufPrecision:
    """Return how a tensor is stored."""
    if array.ndim == 1:
        return "float32"
    return "float16" if precision == "q8_0" and array.shape[1] % _BLOCK else precision


def _bytes_of(array: NDArray[np.float32], stored: GgufPrecision) -> int:
    """Return what a tensor takes in the file; a block of q8_0 is a scale of two bytes and a byte a number."""
    if stored == "q8_0":
        return array.size // _BLOCK * (2 + _BLOCK)
    return array.size * (2 if stored == "float16" else 4)


def _converted(name: str, array: NDArray[np.float32], stored: GgufPrecision) -> NDArray[Any]:
    """Return the numbers as they are stored. Raises ModelError if they are too large for that."""
    if stored == "float32":
        return array
    from gguf.quants import quantize

    if np.abs(array).max() > _MOST_HALF:
        raise ModelError(f"{name} holds numbers too large for {stored}", hint="--precision float32")
    if stored == "float16":
        return array.astype(np.float16)
    rounded: NDArray[Any] = quantize(array, _library().GGMLQuantizationType.Q8_0)
    return rounded


def _announce(writer: Any, name: str, array: NDArray[np.float32], stored: GgufPrecision, nbytes: int) -> None:
    types = _library().GGMLQuantizationType
    if stored == "q8_0":
        rows = array.shape[0]
        writer.add_tensor_info(name, (rows, nbytes // rows), np.dtype(np.uint8), nbytes, raw_dtype=types.Q8_0)
    else:
        writer.add_tensor_info(name, array.shape, np.dtype(stored), nbytes)


def _add_facts(writer: Any, folder: ModelFolder, precision: GgufPrecision) -> None:
    """Add what the file says about the model besides its tensors."""
    gguf = _library()
    types = gguf.LlamaFileType
    writer.add_type("model")
    writer.add_name(folder.path.resolve().name)
    writer.add_description(f"written by gencli {__version__}")
    writer.add_file_type(
        {"float32": types.ALL_F32, "float16": types.MOSTLY_F16, "q8_0": types.MOSTLY_Q8_0}[precision]
    )
    if precision == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, folder.shape)
    _add_tokenizer(writer, folder.tokenizer)
    if folder.is_chat:
        writer.add_chat_template(chat_template(marks_learned=False))


def _add_shape(writer: Any, shape: Shape) -> None:
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_width)
    writer.add_value_length(shape.head_width)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)


def _add_tokenizer(writer: Any, tokenizer: Tokenizer) -> None:
    pieces = tokenizer.model.pieces
    writer.add_tokenizer_model(_TOKENIZER_MODELS[tokenizer.kind])
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.role for piece in pieces])
    writer.add_unk_token_id(tokenizer.unk)
    writer.add_bos_token_id(tokenizer.bos)
    writer.add_eos_token_id(tokenizer.eos)
    writer.add_pad_token_id(tokenizer.pad)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_remove_extra_whitespaces(False)
