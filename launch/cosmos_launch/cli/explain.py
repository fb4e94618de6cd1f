"""`cosmos-train explain [KEY]`: what a key means, its type, its default, who reads it; a section lists its keys."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cosmos_train.config.errors import ConfigError, nearest
from cosmos_train.config.keys import Key, all_keys, readers


def explain(name: str) -> int:
    """Print it. Raises ConfigError for an unknown key, with the nearest known ones."""
    keys = all_keys()
    console = Console(highlight=False, soft_wrap=False)
    if not name:
        _print_list(console, [key for key in keys.values() if "." not in key.path])
        console.print("\n`cosmos-train explain SECTION` lists a section's keys.")
        return 0
    if name not in keys:
        raise ConfigError(f"there is no configuration key {name!r}{nearest(name, keys)}")
    key = keys[name]
    if key.type_name == "section":
        console.print(f"{key.path}: {key.meaning}\n")
        _print_list(console, [other for other in keys.values() if other.section == name])
        return 0
    console.print(f"{key.path}\n  {key.meaning}\n", markup=False)
    console.print(f"  type     {key.type_name}", markup=False)
    console.print(f"  default  {key.default}", markup=False)
    console.print(f"  recipes  {', '.join(key.recipes)}", markup=False)
    console.print(f"  read by  {', '.join(readers(key))}", markup=False)
    return 0


def _print_list(console: Console, keys: list[Key]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    for key in keys:
        table.add_row(key.path, escape(key.default), escape(key.meaning))
    console.print(table)
