"""How megatron-core is imported: without what it loads for parts of it that this project never runs.

On import megatron-core 0.16.1 decorates fused functions of its own transformer layers with torch.compile, which loads
torch's compiler, and loads W&B for its inference engine. None of both is used here (`parallel.compile` asks torch
itself), and each process would pay for them: half of the seconds from a rank's start to its first step.

megatron-core has `disable_jit_fuser` for the first, but importing that function imports all of megatron-core. So
`install` has Python call back between the two. It imports nothing itself, and holds whoever imports first.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType

Around = Callable[[ModuleType], AbstractContextManager[None]]


def install() -> None:
    """Have every later import of megatron-core in this process go this way. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder({"megatron.core": _without_wandb, "megatron.core.jit": _without_compiler}))


@contextmanager
def _without_wandb(_module: ModuleType) -> Iterator[None]:
    """Have `import wandb` fail inside, as where it is not installed, unless it was loaded before."""
    if "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # pyright: ignore[reportArgumentType] Python's own mark of what can not be imported
    try:
        yield
    finally:
        del sys.modules["wandb"]


@contextmanager
def _without_compiler(module: ModuleType) -> Iterator[None]:
    """Have the decorator do nothing, from before its first use."""
    yield
    module.disable_jit_fuser()


class _Finder(importlib.abc.MetaPathFinder):
    """Finds some modules where the others find them, and wraps what executes them."""

    def __init__(self, around: dict[str, Around]) -> None:
        self._around = around

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return where a module of ours to wrap lies; None leaves it to the other finders."""
        if fullname not in self._around:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self._around[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """Executes a module within a context."""

    def __init__(self, loader: importlib.abc.Loader, around: Around) -> None:
        self._loader, self._around = loader, around

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        """Leave it to the loader that is wrapped."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        with self._around(module):
            self._loader.exec_module(module)

    def __getattr__(self, name: str) -> object:
        """Answer as the loader that is wrapped, which is asked for sources and resources."""
        return getattr(self._loader, name)
