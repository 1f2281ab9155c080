"""Learners that are made of other learners: what they declare follows from their parts."""

from collections.abc import Iterable, Iterator

from ml.data.dataset import Dataset
from ml.models.protocol import Learner
from ml.serving.output import TaskKind


class Composite(Learner):
    """A learner with `parts`. `own_served`, `own_code` and `own_libraries` are what it needs besides theirs."""

    own_served: tuple[str, ...] = ()
    own_code: tuple[str, ...] = ()
    own_libraries: tuple[str, ...] = ()

    @property
    def learns(self) -> tuple[TaskKind, ...]:  # type: ignore[override]
        return tuple(kind for kind in Learner.learns if all(kind in part.learns for part in self.parts))

    @property
    def served(self) -> tuple[str, ...]:  # type: ignore[override]
        return _once(self.own_served, *(part.served for part in self.parts))

    @property
    def code(self) -> tuple[str, ...]:  # type: ignore[override]
        return _once(("ml/models/composite.py",), self.own_code, *(part.code for part in self.parts))

    @property
    def libraries(self) -> tuple[str, ...]:  # type: ignore[override]
        return _once(self.own_libraries, *(part.libraries for part in self.parts))

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return _once(*(part.needs for part in self.parts))

    @property
    def repeats(self) -> float:  # type: ignore[override]  # a mean is no farther off than the worst of its parts
        return max((part.repeats for part in self.parts), default=0.0)

    @property
    def gives_probabilities(self) -> bool:
        """Whether each part gives them: the mean is no probability if one is none."""
        return all(part.gives_probabilities for part in self.parts)

    def device_on(self, device: str) -> str:
        """This device if one of the parts is fitted there."""
        return device if any(part.device_on(device) == device for part in self.parts) else "cpu"

    def try_parameters(self, table: Dataset) -> None:
        """Lets each part try its own."""
        for part in self.parts:
            part.try_parameters(table)


def with_parts(learner: Learner) -> Iterator[Learner]:
    """The learner, its parts, and their parts."""
    yield learner
    for part in learner.parts:
        yield from with_parts(part)


def _once(*names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for several in names for name in several))
