"""What is asked of one leaf, and the form of the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gradcheck.evidence import Probe, finest, relative_steps, telling
from gradcheck.power import prove
from gradcheck.problem import Leaf
from gradcheck.results import Entry, Finding, Reason, Verdict

__all__ = ["Question"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One leaf under check, and the form of the answer."""

    index: int
    leaf: Leaf
    tolerance: float
    oracle: str

    def answer(
        self,
        verdict: Verdict,
        message: str,
        probes: Sequence[Probe] = (),
        *,
        entries: tuple[Entry, ...] = (),
        diagnosis: str | None = None,
        reason: Reason | None = None,
    ) -> Finding:
        most = telling(probes)
        shown = most if verdict is Verdict.FAIL else finest(probes)
        return Finding(
            check="vjp",
            leaf=self.leaf.path,
            verdict=verdict,
            mismatch=shown.mismatch if shown else 0.0,
            resolution=shown.resolution if shown else 0.0,
            tolerance=self.tolerance,
            oracle=self.oracle,
            message=message,
            entries=entries,
            diagnosis=diagnosis,
            reason=reason,
            steps=relative_steps(most) if most else (),
        )

    def passed(self, message: str, probes: Sequence[Probe]) -> Finding:
        """A pass, with the power that it was proved to have."""
        finding = self.answer(Verdict.PASS, message, probes)
        seeing = [probe for probe in probes if not probe.is_vacuous]
        return replace(finding, power=prove(seeing, self.tolerance)) if seeing else finding
