"""What the slope prior was in each component, and what it did to each slope: for run.json, MLflow and `explain`."""

from collections.abc import Iterable, Iterator

from pydantic import Field as Described

from levelmatch_core.matching.results import Solution
from levelmatch_core.records import Record

NAMED = 5
"""Most slopes that are named in words."""
SHOWN = 0.1
"""A slope is named as held back if that changes it by more than this many of its 1 sigma."""


class SlopeChange(Record):
    """A member's slopes and how much of them is due to the prior, data unit a grid pixel."""

    member: str
    slope: tuple[float, float] = Described(description="slope_x, slope_y of the correction")
    change: tuple[float, float] = Described(description="that, less what it is without the prior")
    sigma: tuple[float, float] = Described(description="1 sigma of the slopes")

    @property
    def size(self) -> float:
        """The larger change of the two, in 1 sigma of its slope."""
        return max((abs(a) / b for a, b in zip(self.change, self.sigma, strict=True) if b > 0), default=0.0)


class SlopePriorSummary(Record):
    """The slope prior of one component."""

    group: str
    component: int = Described(description="index into the components of its group")
    members: int
    width: float = Described(description="1 sigma of slopes from a member's middle to its edge, data unit")
    slopes: tuple[SlopeChange, ...] = Described(
        description="by member; none in components of more than 4,000 members, where the changes are not computed"
    )


def slope_priors_of(solutions: Iterable[Solution]) -> tuple[SlopePriorSummary, ...]:
    """Return the priors of all components that have one."""
    found = []
    for solution in solutions:
        for number, component in enumerate(solution.components):
            if component.slope_prior is None:
                continue
            mine = [one for one in solution.members if one.component == number and one.slope_change is not None]
            found.append(
                SlopePriorSummary(
                    group=solution.group,
                    component=number,
                    members=len(component.members),
                    width=component.slope_prior[1],
                    slopes=tuple(
                        SlopeChange(
                            member=one.name,
                            slope=(one.plane.slope_x, one.plane.slope_y),
                            change=one.slope_change or (0.0, 0.0),
                            sigma=one.sigma[1:],
                        )
                        for one in mine
                    ),
                )
            )
    return tuple(found)


def slope_prior_lines(priors: Iterable[SlopePriorSummary], unit: str) -> Iterator[str]:
    """Say how wide the priors are, and which slopes they changed most."""
    priors = list(priors)
    if not priors:
        return
    widths = sorted(one.width for one in priors)
    spread = f"{widths[0]:.3g}" if len(widths) == 1 else f"{widths[0]:.3g} to {widths[-1]:.3g}"
    slopes = sorted((change for one in priors for change in one.slopes), key=lambda change: -change.size)
    changed = [change for change in slopes if change.size > SHOWN]
    yield (
        f"Slopes are held by a prior (1 sigma from middle to edge: {spread} {unit}), which changed those of "
        f"{len(changed)} of {len(slopes)} members by more than {SHOWN:g} sigma."
    )
    for one in changed[:NAMED]:
        (x, y), (by_x, by_y) = one.slope, one.change
        yield f"  {one.member}: slopes {x:.3g}, {y:.3g} a pixel, of which the prior made {by_x:+.2g}, {by_y:+.2g}"
