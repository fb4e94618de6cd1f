"""What official files of both kinds of world model share: what may be given, and what is refused."""

import re

import pytest
import torch

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.official import (
    Sizes,
    check_arguments,
    flat,
    prefixes,
    refuse_features,
)


def test_arguments_must_be_what_the_tensors_say():
    known = {"expected": {"use_adaln_lora": True}, "no_effect": ("fps",)}
    derived = {"num_blocks": 2}
    check_arguments({"num_blocks": 2, "fps": 9, "use_adaln_lora": True}, derived, "a.pt", **known)
    with pytest.raises(ConfigError, match=r"a.pt: its tensors say num_blocks=2, the arguments num_blocks=4"):
        check_arguments({"num_blocks": 4}, derived, "a.pt", **known)
    with pytest.raises(ConfigError, match=r"use_adaln_lora=False makes another network.*only use_adaln_lora=True can"):
        check_arguments({"use_adaln_lora": False}, derived, "a.pt", **known)
    said = r"a.pt: unknown arguments odd=1, n_views=3; known are fps, num_blocks, use_adaln_lora. Leave out what"
    with pytest.raises(ConfigError, match=said):
        check_arguments({"odd": 1, "num_blocks": 4, "n_views": 3}, derived, "a.pt", **known)


def test_features_are_told_by_whole_names():
    names = ["net.view_embeddings.weight", "net.reviewed.weight", "net.x_embedder.proj.1.weight"]
    refuse_features(names[1:], "a.pt")
    with pytest.raises(ConfigError, match=r"a.pt has net.view_embeddings.weight: its network takes several views"):
        refuse_features(names, "a.pt")


def test_sizes_name_what_is_missing():
    sizes = Sizes({"a": torch.empty(2, 3, device="meta")}, "a.pt", "diffusion")
    assert sizes.of("a") == (2, 3)
    with pytest.raises(ConfigError, match=r"a.pt has no b: it is no diffusion world model of the Cosmos kind"):
        sizes.of("b")


def test_a_kernel_of_patches_is_a_matrix_and_networks_are_told_by_their_prefixes():
    assert flat(torch.zeros(8, 4, 1, 2, 2)).shape == (8, 16) and flat(torch.zeros(8, 4)).shape == (8, 4)
    first = re.compile(r"(.*)x_embedder\.weight")
    assert prefixes(["net.x_embedder.weight", "net_ema.x_embedder.weight", "net.b"], first) == {"net.", "net_ema."}
