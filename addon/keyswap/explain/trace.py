"""The decision on a request that is described and not made, step by step.

Law: the steps are the gate's own, in the order of its table; nothing is counted. Each is timed by the caller's clock.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

from keyswap.gate import Gate, Step
from keyswap.judgement import Judgement, StepAnswer
from keyswap.model import Credential, Decision, NeedBody, Noted, Refuse, Request, StepResult

NOT_REACHED, NOTHING_TO_DO = "not reached", "nothing to do"


async def explain(
    gate: Gate,
    request: Request,
    now: float,
    clock: Callable[[], float],
    presented: Credential | None = None,
    off: Collection[str] = (),
) -> tuple[Decision, list[StepResult]]:
    """The decision of `gate`, with each step's result and time; of headers and a body nothing is known.

    `clock` counts seconds; `presented` stands in for what the headers would hold; `off` are steps that judge nothing.
    """
    trace = Trace(clock, off)
    dry = replace(
        gate,
        dry=True,
        credential=lambda headers, *of: presented or gate.credential(headers, *of),
        parameters=lambda request, match: _of_target(gate.parameters(request, match)),
        body_limit=lambda _request, _match: None,
        steps=tuple(trace.traced(step) for step in gate.steps),
    )
    decision = await dry.decide(request, now)
    return decision, trace.results(gate, decision)


def _of_target(refused: Refuse | None) -> Refuse | None:
    """What is wrong with path and query alone."""
    if refused is None or not refused.errors:
        return refused
    errors = tuple(fault for fault in refused.errors if fault.where in {"path", "query"})
    return replace(refused, errors=errors) if errors else None


class Trace:
    """What each step answered, and in what time. `clock` counts seconds; `off` are the steps that judge nothing."""

    def __init__(self, clock: Callable[[], float], off: Collection[str]) -> None:
        self._clock, self._off = clock, off
        self._results: dict[str, StepResult] = {}

    def traced(self, step: Step) -> Step:
        """The step, with its result kept."""

        async def judge(gate: Gate, judgement: Judgement) -> StepAnswer:
            began, noted = self._clock(), len(judgement.noted)
            answer = await step.judge(gate, judgement)
            result, detail = self._result(step, judgement, answer, judgement.noted[noted:])
            self._results[step.name] = StepResult(step.name, result, detail, (self._clock() - began) * 1e6)
            return answer

        return step._replace(judge=judge)

    def _result(
        self, step: Step, judgement: Judgement, answer: StepAnswer, noted: tuple[Noted, ...]
    ) -> tuple[str, str]:
        if isinstance(answer, Refuse):
            return "refuse" if answer.enforced else "shadow", answer.reason
        if step.name in self._off:
            return "skip", "off"
        if answer is not None:
            return "skip", "it needs the body, of which nothing is known"
        detail = step.describe(judgement)
        if noted:
            return "shadow", f"{noted[0].reason}: {detail}"
        return ("skip", NOTHING_TO_DO) if detail is None else ("pass", detail)

    def results(self, gate: Gate, decision: Decision) -> list[StepResult]:
        """Every step's, in order: what was asked after the step that refuses is not shown."""
        if isinstance(decision, Refuse) and decision.step not in {step.name for step in gate.steps}:
            return untraced(gate, decision)
        results, ended = [], False
        last = decision.step if isinstance(decision, Refuse | NeedBody) else None
        for name in [step.name for step in gate.steps]:
            result = self._results.get(name) if not ended else None
            ended = ended or name == last
            if name == last and isinstance(decision, Refuse) and (result is None or result.result != "refuse"):
                detail = decision.reason if result is None else result.detail  # what came later needed what it lacks
                result = StepResult(name, "refuse", detail, 0.0)
            results.append(result or StepResult(name, "skip", NOT_REACHED if ended else NOTHING_TO_DO, 0.0))
        return results


def untraced(gate: Gate, refused: Refuse) -> list[StepResult]:
    """The steps of a request that was refused before the first of them."""
    first = StepResult(refused.step or "", "refuse", refused.reason, 0.0)
    return [first, *(StepResult(step.name, "skip", NOT_REACHED, 0.0) for step in gate.steps)]
