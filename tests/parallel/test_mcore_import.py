"""What a process loads besides megatron-core when it imports that and makes an optimizer, tried in a process that has
imported nothing yet."""

import json
import subprocess
import sys

SCRIPT = """
import inspect, json, sys
import cosmos_train.parallel.engine
import megatron.core, torch
from cosmos_train.parallel.adam import FusedAdam
from cosmos_train.parallel.torch_private import keep_compiler_from_optimizers
keep_compiler_from_optimizers()
optimizer = FusedAdam([torch.nn.Parameter(torch.ones(2))])
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
loaded = [name for name in ("torch._dynamo", "wandb") if name in sys.modules]
from megatron.core.fusions import fused_bias_gelu
import wandb
from cosmos_train.parallel import mcore_import
mcore_import.install()
print(json.dumps({
    "loaded": loaded,
    "decorated": "_torchdynamo_orig_callable" in vars(fused_bias_gelu.bias_gelu),
    "wandb": wandb.__version__,
    "source": "import" in inspect.getsource(megatron.core),
    "finders": sum(isinstance(finder, mcore_import._Finder) for finder in sys.meta_path),
}))
"""


def test_neither_the_compiler_nor_wandb_comes_with_it():
    """And W&B can be imported after it, megatron-core's source be shown, and nothing is installed twice."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("wandb")
    assert found == {"loaded": [], "decorated": False, "source": True, "finders": 1}
