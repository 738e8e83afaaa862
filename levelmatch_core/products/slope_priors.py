"""The slope prior of each component, and its effect on each slope, for run.json, MLflow and `explain`."""

from collections.abc import Iterable, Iterator

from pydantic import Field as Described

from levelmatch_core.matching.results import Solution
from levelmatch_core.records import Record

NAMED = 5
"""Largest number of slopes listed in words."""
SHOWN = 0.1
"""Slopes that the prior changes by more than this many sigma are listed."""


class SlopeChange(Record):
    """The slopes of a member and their change by the prior, data unit per grid pixel."""

    member: str
    slope: tuple[float, float] = Described(description="slope_x, slope_y of the correction")
    change: tuple[float, float] = Described(description="the same, minus the slopes without the prior")
    sigma: tuple[float, float] = Described(description="1 sigma of the slopes")

    @property
    def size(self) -> float:
        """The larger one of the two changes, in units of the slope's 1 sigma."""
        return max((abs(a) / b for a, b in zip(self.change, self.sigma, strict=True) if b > 0), default=0.0)


class SlopePriorSummary(Record):
    """The slope prior of one component."""

    group: str
    component: int = Described(description="index into the components of its group")
    members: int
    width: float = Described(description="1 sigma of slopes from the centre of a member to its edge, data unit")
    slopes: tuple[SlopeChange, ...] = Described(
        description="by member; empty for components of more than 4,000 members, whose changes are not computed"
    )


def slope_priors_of(solutions: Iterable[Solution]) -> tuple[SlopePriorSummary, ...]:
    """Return the slope priors of all components that have one."""
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
    """Yield lines with the widths of the priors, and the slopes that they changed most."""
    priors = list(priors)
    if not priors:
        return
    widths = sorted(one.width for one in priors)
    spread = f"{widths[0]:.3g}" if len(widths) == 1 else f"{widths[0]:.3g} to {widths[-1]:.3g}"
    slopes = sorted((change for one in priors for change in one.slopes), key=lambda change: -change.size)
    changed = [change for change in slopes if change.size > SHOWN]
    known = f", which changed those of {len(changed)} of {len(slopes)} members by more than {SHOWN:g} sigma"
    yield f"Slopes are held by a prior (1 sigma from middle to edge: {spread} {unit}){known if slopes else ''}."
    for one in changed[:NAMED]:
        (x, y), (by_x, by_y) = one.slope, one.change
        yield f"  {one.member}: slopes {x:.3g}, {y:.3g} a pixel, of which the prior made {by_x:+.2g}, {by_y:+.2g}"
