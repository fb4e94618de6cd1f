"""A figure that says whether a condition is followed, between what the measure can tell at best and nothing at all."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A measured number, and what the same measure says of true frames and of frames under another's command.

    No estimator sees a command: commands are what estimates are compared with.
    """

    name: str
    value: float
    """Generated frames give this."""
    floor: float
    """True frames give this: the measure itself is off by so much."""
    ceiling: float
    """Generated frames against shuffled commands give this, as they do where nothing is followed."""
    num_clips: int
    unit: str = ""

    def __str__(self) -> str:
        """Say all of it in one line."""
        unit = f" {self.unit}" if self.unit else ""
        return (
            f"{self.name}: {self.value:.3g}{unit} (true frames {self.floor:.3g}, shuffled {self.ceiling:.3g}; "
            f"{self.num_clips} clips)"
        )
