"""Methods in a panel: the names of its menu, and any method object, the reader's own too.

One rule for every panel with `method=`: it takes a name of the panel's menu, a method object, or a
list of these. Where a menu shows one method at a time, objects stand in it by their `name` and the
first of the list is shown first. Where a panel draws several, objects are drawn beside those that
are always there. A rank (or a budget) applies through `Method.with_rank`; a method that has no size
is the same at each, and a menu that was given such a one has no control for it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from missviz.adapters.base import Method, checked_method
from missviz.adapters.trial import given_size
from missviz.explore.panel import code_of
from missviz.explore.weights import Name

Choice = str | Method
"""A name of a menu, or a method object."""


def code(method: Any) -> Name:
    """`method=` as it was given, for `Panel.state`: one, or a list."""
    if isinstance(method, list | tuple):
        return Name(f"[{', '.join(map(code_of, method))}]")
    return Name(code_of(method))


def size_of(method: Method) -> int | None:
    """Its rank (Bat: block size), or None where `with_rank` leaves it as it is."""
    size = given_size(method)
    if size is None:
        return None
    try:
        return size if method.with_rank(size + 1).name != method.name else None
    except ValueError:  # it has a size, and cannot have this one
        return size


def family(method: Method) -> str:
    """Its name without the words that change with its size: "gain MiSS" for "gain MiSS r=4"."""
    size = size_of(method)
    if size is None:
        return method.name
    try:
        other = method.with_rank(size + 1).name
    except ValueError:
        return method.name
    words = zip(method.name.split(), other.split(), strict=False)
    return " ".join(word for word, changed in words if word == changed) or method.name


def within(
    method: Method,
    budget: int,
    out_features: int,
    in_features: int,
    trained: Callable[[Method], int] | None = None,
) -> Method:
    """`method` at the largest size that trains at most `budget` numbers on such a layer; at its
    smallest where even that trains more, and as it is where it has no size.

    `trained` counts them; None means `Method.num_parameters`.
    """
    if size_of(method) is None:
        return method
    best = None
    for size in range(1, min(out_features, in_features) + 1):
        try:
            sized = method.with_rank(size)
            sized.check_shape(out_features, in_features)
            if trained is None:
                numbers = sized.num_parameters(out_features, in_features)
            else:
                numbers = trained(sized)
        except ValueError:
            continue
        if best is None or numbers <= budget:
            best = sized
    return best or method


def listed(method: Any) -> tuple[Choice, ...]:
    """What was given as `method=`, as a list: names and objects.

    Raises:
        TypeError: something that is neither; a class, where an instance is wanted.
        ValueError: an empty list, or two objects of one name.
    """
    given = tuple(method) if isinstance(method, list | tuple) else (method,)
    if not given:
        raise ValueError("method is an empty list; give at least one method, or leave it out")
    for one in given:
        if not isinstance(one, str):
            given_size(checked_method("method", one))
    names = [str(one) for one in given]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"method has {', '.join(twice)} more than once; names key the picture")
    return given


@dataclass(frozen=True)
class Menu:
    """The methods that a panel shows one at a time."""

    shipped: Mapping[str, Callable[[int], Method]]
    """rank → method, by name."""
    given: tuple[Choice, ...]

    @classmethod
    def of(
        cls, shipped: Mapping[str, Callable[[int], Method]], method: Any, *, sized: bool = True
    ) -> "Menu":
        """`sized`: the panel sets one rank for all.

        Raises what `listed` does, and ValueError for a name that is not in the menu, an object that
        has one that is, or one that is called like another as soon as both have one rank.
        """
        given = listed(method)
        for one in given:
            if isinstance(one, str) and one not in shipped:
                known = ", ".join(map(repr, shipped))
                raise ValueError(
                    f"method={one!r} is not a choice; choose from {known}, or give a method object"
                )
            if isinstance(one, Method) and one.name in shipped:
                raise ValueError(
                    f"method: {one.name!r} stands in the menu already; give the word, or another "
                    "name to your method"
                )
        if sized:
            _check_families(shipped, [one for one in given if isinstance(one, Method)])
        return cls(shipped, given)

    @property
    def options(self) -> list[Choice]:
        return [*self.shipped, *(one for one in self.given if isinstance(one, Method))]

    @property
    def first(self) -> Choice:
        return self.given[0]

    @property
    def sized(self) -> bool:
        """Whether a rank changes what was given: else there is no control for it."""
        return any(isinstance(one, str) or size_of(one) is not None for one in self.given)

    def size(self, rank: int | None, otherwise: int) -> int:
        """The rank asked for, or that of the first object, or `otherwise`."""
        if rank is not None:
            return rank
        own = None if isinstance(self.first, str) else size_of(self.first)
        return otherwise if own is None else own

    def at(self, choice: Choice, rank: int) -> Method:
        """The method at this rank."""
        return self.shipped[choice](rank) if isinstance(choice, str) else choice.with_rank(rank)


def _check_families(
    shipped: Mapping[str, Callable[[int], Method]], methods: Iterable[Method]
) -> None:
    """ValueError where two methods have one name at one rank, and are not the same."""
    found: dict[str, Method] = {}
    for one in methods:
        called, size = family(one), size_of(one)
        other = found.setdefault(called, one)
        if other is not one:
            raise ValueError(
                f"method has {other.name} and {one.name}: the panel sets one rank for all, at "
                f"which both are {called}; give one of them, or another name"
            )
        if size is not None and called in shipped and type(shipped[called](size)) is not type(one):
            raise ValueError(
                f"method={one.name!r}: {called!r} is drawn already; give yours another name"
            )


def beside(names: Iterable[str], method: Any) -> dict[str, Method]:
    """The objects that a panel draws beside those of these `names`, by what they are called there:
    without their size, which the panel sets. None: nothing.

    Raises what `listed` does; TypeError for a name, since all names are drawn; ValueError for an
    object that is called like one of them.
    """
    if method is None:
        return {}
    taken = list(names)
    found: dict[str, Method] = {}
    for one in listed(method):
        if isinstance(one, str):
            raise TypeError(
                f"method={one!r} is a name; {', '.join(taken)} are drawn anyway, and what is drawn "
                "beside them is a method object, such as missviz.LoHa(2)"
            )
        called = family(one)
        if called in (*taken, *found):
            raise ValueError(
                f"method={one.name!r}: {called!r} is drawn already; give yours another name"
            )
        found[called] = one
    return found
