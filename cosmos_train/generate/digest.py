"""What weights a video was sampled with, in one word that does not depend on the layout or on what lies beside them."""

import hashlib
import json
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_train.parallel.mesh import Mesh, over_stages
from cosmos_train.parallel.shard import partition_dim


@torch.no_grad()
def weights_digest(pieces: Sequence[nn.Module], mesh: Mesh) -> str:
    """sha256, in hex, over names, types, shapes and values of the whole model, which ranks may hold parts of."""
    mine: dict[str, str] = {}
    for piece in pieces:
        for name, param in piece.named_parameters():
            whole = _whole(param, mesh).cpu().contiguous()
            values = whole.flatten().view(torch.uint8).numpy()
            mine[name] = f"{whole.dtype} {list(whole.shape)} {hashlib.sha256(values.data).hexdigest()}"
    return hashlib.sha256(json.dumps(over_stages(mine, mesh), sort_keys=True).encode()).hexdigest()


def _whole(param: Tensor, mesh: Mesh) -> Tensor:
    dim = partition_dim(param)
    if dim is None or mesh.tp.size() == 1:
        return param
    parts = [torch.empty_like(param) for _ in range(mesh.tp.size())]
    dist.all_gather(parts, param.contiguous(), group=mesh.tp)
    return torch.cat(parts, dim=dim)
