"""Values with named fields."""

from __future__ import annotations

from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Record:
    """A value whose annotated names are its fields, like a frozen dataclass. Raises TypeError for missing or unknown fields.

    The module `dataclasses` imports `inspect`, which together take a tenth of the time to the first answer.
    """

    _fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Take the names of the fields."""
        cls._fields = tuple(cls.__annotations__)

    def __init__(self, *values: Any, **named: Any) -> None:
        """Set the fields, in their order or by name; the others have their defaults."""
        given = dict(zip(self._fields, values, strict=False))
        given.update(named)
        missing = [name for name in self._fields if name not in given and not hasattr(self, name)]
        if missing or len(given) != len(values) + len(named) or not given.keys() <= set(self._fields):
            unknown = sorted(given.keys() - set(self._fields))
            what = f"no field {', '.join(unknown)}" if unknown else f"no value for {', '.join(missing)}"
            raise TypeError(f"{type(self).__name__} has {what}")
        self.__dict__.update(given)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values."""

    def __setattr__(self, name: str, _: object) -> None:
        """Refuse to change a field. Raises AttributeError."""
        raise AttributeError(f"cannot change {name} of {type(self).__name__}")

    def __eq__(self, other: object) -> bool:
        """Tell whether all fields are equal."""
        return type(self) is type(other) and self.as_dict() == other.as_dict()

    def __repr__(self) -> str:
        """Return the call that makes this value."""
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.as_dict().items())})"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return {name: getattr(self, name) for name in self._fields}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values for some fields."""
        return type(self)(**(self.as_dict() | changes))
