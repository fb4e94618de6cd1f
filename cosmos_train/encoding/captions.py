"""`cosmos-train tokenize RUN.yaml --text`: the states of a run's captions into its text cache, and nothing else.

T5-11B is 45 GB and is wanted once: on one machine this fills `text.cache`, and later runs never load it.
"""

from collections.abc import Sequence

import pyarrow as pa
import torch

from cosmos_data.config import DataConfig
from cosmos_data.manifests.manifest import Manifest
from cosmos_train.config.errors import ConfigError
from cosmos_train.text.cache import cached_text_encoder
from cosmos_train.text.config import TextConfig
from cosmos_train.text.encoder import TextStates
from cosmos_train.train.telling.progress import progress

TEXTS_AT_ONCE = 128
"""That are handed to the encoder, which makes batches of them: states of 512 tokens of T5-11B are 2 MiB a text."""


def encode_text(text: TextConfig, data: DataConfig) -> int:
    """Returns the exit code. Raises ConfigError, DataError or ValueError where the input is wrong."""
    if text.cache is None:
        raise ConfigError("text.cache is not set, and --text keeps the states of texts there; set it to a folder")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    manifests = [Manifest.read(path) for path in (data.manifest, *data.blend)]
    captions = pa.chunked_array([manifest.captions() for manifest in manifests]).unique()
    encoder = cached_text_encoder(text, text.cache, device)
    with progress("text", "captions") as advance:
        for start in range(0, len(captions), TEXTS_AT_ONCE):
            some = captions[start : start + TEXTS_AT_ONCE].to_pylist()
            tell_cut(some, encoder.encode(some), text.max_tokens)
            advance(start + len(some), len(captions))
    encoder.flush()
    known = len(captions) - encoder.num_computed
    print(f"{encoder.num_computed} captions encoded, {known} were there already: {text.cache}")
    return 0


def tell_cut(texts: Sequence[str], encoded: TextStates, max_tokens: int) -> None:
    """Print which texts are longer than the encoder takes."""
    for text, dropped in zip(texts, encoded.dropped_B.tolist(), strict=True):
        if dropped:
            print(f"caption cut by {dropped} tokens to text.max_tokens={max_tokens}: {text}")
