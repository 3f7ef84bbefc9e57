"""The scenario of the sweep: the whole proxy under load, and one crash of one actor at one line.

Nothing else goes wrong, so everything that a client was told is the crash's doing. Only what the
actor owned may fail: calls at another upstream than its own are answered. If it was not the root,
the tree lives on; ten minutes later everybody is there again, and nothing is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy_actors.actors.supervisor import Supervisor
from proxy_actors.policy.session_ledger import hash_of_principal
from proxy_actors.world.sim_world import SimWorld
from tests.sim.campaign import Scenario, quiet_logs, run_one
from tests.sim.crash_points import Crash, Point, Recorder
from tests.sim.whole_scenario import Scene, SeveralScene

# From this seed on the upstream has several endpoints.
SEVERAL_FROM = 1000
SEEDS = (*range(30), *range(SEVERAL_FROM, SEVERAL_FROM + 6))
FINE = frozenset({"left", "result", "ended_as_cancelled", "draining_no"})


class SweepScene(Scene):
    """One run."""

    def __init__(self, world: SimWorld, seed: int) -> None:
        if seed >= SEVERAL_FROM:
            self.kinds = SeveralScene.kinds
        super().__init__(world, calm=True)
        self.calm = self.sane = False
        self._before_drain: int | None = None
        self.victim = ""

    def begin_faults(self) -> None:
        """There are none."""

    def disturb(self) -> None:
        """Nobody does harm."""

    def drain(self) -> None:
        """Note what was called before, as what comes later may be refused."""
        self._before_drain = len(self.calls)
        super().drain()

    def check_rest(self) -> None:
        """Check that the crash was borne as well."""
        lives = 2 if self.victim == "root" else 1
        assert self.trees <= lives, f"{self.victim} has taken the tree with it"
        for actor in self.tree.actors():
            if isinstance(actor, Supervisor):
                missing = actor._workers.keys() - actor.children.keys()
                assert not missing, f"{missing} were not started anew"
        super().check_rest()

    def check_truth(self) -> None:
        """Check that calls elsewhere were answered (O4)."""
        super().check_truth()
        place, _, own = self.victim.partition("/")
        if place != "upstream":
            return
        for call in self.calls[: self._before_drain]:
            server = call.session.server
            lost = call.session.gone and server.lost()  # by a call that its server did not survive
            if server.name != own.partition("/")[0] and call.good and not lost:
                assert call.told in FINE, f"{call} suffers from the crash of {self.victim}"


def find_points(seeds: Iterable[int]) -> list[Point]:
    """List every line that a turn of any actor comes to, and each message's beginning and end."""
    points: dict[tuple[str, ...], Point] = {}
    with quiet_logs():
        for seed in seeds:
            scenes: list[SweepScene] = []
            hash_of_principal.cache_clear()
            recorder = Recorder(seed, points, lambda: not scenes[-1].sane)

            def run(world: SimWorld) -> None:
                scenes.append(SweepScene(world, seed))
                with recorder.installed():
                    scenes[-1].run()

            run_one(Scenario("sweep", run, frozenset()), SimWorld(seed))
    return list(points.values())


def crash_at(point: Point) -> None:
    """Run with a crash at the point.

    Raises:
        AssertionError: a rule was broken.
    """
    crash = Crash(point)

    def run(world: SimWorld) -> None:
        scene = SweepScene(world, point.seed)

        def note_victim() -> None:
            scene.victim = crash.victim

        world.after_step.append(note_victim)
        with crash.installed():
            scene.run()
        assert crash.victim, f"the run never came to {point}"

    with quiet_logs():
        hash_of_principal.cache_clear()
        run_one(Scenario("sweep", run, frozenset()), SimWorld(point.seed))


def broken_by(points: Iterable[Point]) -> Sequence[str]:
    """Crash at each point; list those after which a rule was broken."""
    broken = []
    for point in points:
        try:
            crash_at(point)
        except Exception as error:
            broken.append(f"{point} (seed {point.seed}): {error!r}")
    return broken
