"""`cosmos-train tokenize RUN.yaml --text`: the states of a run's captions into its text cache, and nothing else.

T5-11B is 45 GB and is wanted once: on one machine this fills `text.cache`, and later runs never load it.
"""

from pathlib import Path

import torch

from cosmos_data.config import DataConfig
from cosmos_data.manifest import Manifest
from cosmos_launch.progress import progress
from cosmos_tok.config import TextConfig
from cosmos_tok.text import text_encoder_folder
from cosmos_tok.text_cache import CachedTextEncoder
from cosmos_train.config.errors import ConfigError


def encode_text(text: TextConfig, data: DataConfig) -> int:
    """Returns the exit code. Raises ConfigError, DataError or ValueError where the input is wrong."""
    if text.cache is None:
        raise ConfigError("text.cache is not set, and --text keeps the states of texts there; set it to a folder")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    captions = sorted({clip.caption for clip in Manifest.read(data.manifest)})
    encoder = CachedTextEncoder(text_encoder_folder(text.encoder), text.max_tokens, Path(text.cache), device)
    with progress("text", "captions") as advance:
        for done, caption in enumerate(captions, start=1):
            dropped = int(encoder.encode([caption]).dropped_B[0])
            if dropped:
                print(f"caption cut by {dropped} tokens to text.max_tokens={text.max_tokens}: {caption}")
            advance(done, len(captions))
    known = len(captions) - encoder.num_computed
    print(f"{encoder.num_computed} captions encoded, {known} were there already: {text.cache}")
    return 0
