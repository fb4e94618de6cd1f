"""Signatures of TransformerEngine, read from a wheel's source with `ast` and recorded as JSON for tests without a GPU.

    python tests/support/te_signatures.py transformer_engine-2.11.0-py3-none-any.whl tests/parallel/data/te_2.11.json

The wheel needs not be installed. Run it again for another version: tests/parallel/test_te.py then says which argument
that cosmos_train/parallel passes is gone.
"""

import argparse
import ast
import inspect
import json
import re
import zipfile
from pathlib import Path
from typing import Any

PYTORCH = "transformer_engine/pytorch"
RECORDED = {
    "transformer_engine/common/recipe/__init__.py": [
        "Format",
        "DelayedScaling",
        "Float8CurrentScaling",
        "Float8BlockScaling",
        "MXFP8BlockScaling",
        "NVFP4BlockScaling",
    ],
    f"{PYTORCH}/quantization.py": ["autocast", "check_recipe_support", "quantized_model_init"],
    f"{PYTORCH}/distributed.py": ["checkpoint"],
    f"{PYTORCH}/module/_common.py": ["_ParameterInitMeta"],
    f"{PYTORCH}/module/base.py": [
        "UserBufferQuantizationMode",
        "initialize_ub",
        "destroy_ub",
        "TransformerEngineBaseModule.init_fp8_metadata",
    ],
    f"{PYTORCH}/module/linear.py": ["Linear.__init__", "Linear.forward", "Linear.reset_parameters"],
    f"{PYTORCH}/module/rmsnorm.py": ["RMSNorm.__init__"],
    f"{PYTORCH}/ops/basic/rmsnorm.py": ["RMSNorm.__init__"],
    f"{PYTORCH}/attention/dot_product_attention/dot_product_attention.py": [
        "DotProductAttention.__init__",
        "DotProductAttention.forward",
    ],
}
"""File -> enumerations, dataclasses, functions and methods in it."""

Parameter = tuple[str, str, bool]
"""Name, name of its kind in inspect, whether it has a default."""


def record(wheel: Path) -> dict[str, Any]:
    """Version; what transformer_engine.pytorch exports; dotted name -> members or parameters, without self."""
    with zipfile.ZipFile(wheel) as archive:
        sources = {path: ast.parse(archive.read(path)) for path in [*RECORDED, f"{PYTORCH}/__init__.py"]}
    exported = []
    for node in sources[f"{PYTORCH}/__init__.py"].body:
        if isinstance(node, ast.ImportFrom):
            exported += [alias.name for alias in node.names]
    recorded = {"version": wheel.name.split("-")[1], "transformer_engine.pytorch": sorted(exported)}
    for path, names in RECORDED.items():
        recorded |= {f"{_module(path)}.{name}": _described(sources[path].body, name) for name in names}
    return recorded


def parameters_of(function: ast.FunctionDef, *, skip_first: bool) -> list[Parameter]:
    """What it takes; of **kwargs, what it pops from them."""
    arguments, kinds = function.args, inspect.Parameter
    plain = [*arguments.posonlyargs, *arguments.args]
    first_default = len(plain) - len(arguments.defaults)
    found = [(a.arg, kinds.POSITIONAL_OR_KEYWORD.name, i >= first_default) for i, a in enumerate(plain)][skip_first:]
    if arguments.vararg is not None:
        found.append((arguments.vararg.arg, kinds.VAR_POSITIONAL.name, False))
    found += [
        (a.arg, kinds.KEYWORD_ONLY.name, default is not None)
        for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    if arguments.kwarg is not None:
        popped = re.findall(rf"\b{arguments.kwarg.arg}\.pop\(['\"](\w+)['\"]", ast.unparse(function))
        found += [(name, kinds.KEYWORD_ONLY.name, True) for name in popped]
    return found


def signature_of(parameters: list[Parameter]) -> inspect.Signature:
    """To bind a call to."""
    empty = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, inspect._ParameterKind[kind], default=None if has_default else empty)
            for name, kind, has_default in parameters
        ]
    )


def find(body: list[ast.stmt], name: str) -> ast.ClassDef | ast.FunctionDef:
    """The class or function of this name. Raises KeyError where there is none."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    raise KeyError(name)


def _described(body: list[ast.stmt], name: str) -> list[str] | list[Parameter]:
    outer, _, method = name.partition(".")
    node = find(body, outer)
    if isinstance(node, ast.FunctionDef):
        return parameters_of(node, skip_first=False)
    if method:
        found = find(node.body, method)
        assert isinstance(found, ast.FunctionDef)
        return parameters_of(found, skip_first=True)
    if any(ast.unparse(base) == "Enum" for base in node.bases):
        return [ast.unparse(s.targets[0]) for s in node.body if isinstance(s, ast.Assign)]
    fields = (s for s in node.body if isinstance(s, ast.AnnAssign))  # what is not annotated is no field
    return [(ast.unparse(s.target), "POSITIONAL_OR_KEYWORD", s.value is not None) for s in fields]


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Record TransformerEngine's signatures.")
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    lines = (f'"{key}": {json.dumps(value)}' for key, value in record(options.wheel).items())
    options.out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
