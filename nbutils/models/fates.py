"""What becomes of requests that a server does not answer: refusals held until one can judge them, failures in a row."""

from dataclasses import dataclass, field

from nbutils.models.refusals import ApiError, Trouble
from nbutils.models.texts import Generation

BREAKER = 8  # calls that fail in a row before an API is given up; or refusals, before it is tried whether it answers


@dataclass
class Fates:
    """What becomes of requests. One that is refused is held until it is known whether the server `answers` any that is
    asked like it: then the refusal is its own, and final."""

    answers: bool
    held: list[tuple[str, Trouble]] = field(default_factory=list)
    failures: int = 0  # in a row, of what may pass
    last: str = ""  # why the last of them failed

    @property
    def is_in_doubt(self) -> bool:
        """Whether refusals are all that has come, and enough of them to ask why."""
        return not self.answers and len(self.held) >= BREAKER

    def take(self, key: str, heard: Generation | Trouble) -> list[tuple[str, Generation]]:
        """What is known at once: an answer, or that there is none; a refusal is held."""
        if isinstance(heard, Generation):
            self.answers, self.failures = True, 0
            return [(key, heard)]
        if heard.fate == "passes":
            self.failures, self.last = self.failures + 1, heard.reason
            return [(key, _unanswered(heard, is_open=True))]
        self.held.append((key, heard))
        return []

    def settle(self, at_end: bool = False) -> list[tuple[str, Generation]]:
        """What is known by now of those held; at the end all, and what may not be the request's own stays open."""
        known = [(key, each) for key, each in self.held if self.answers or at_end or each.fate == "own"]
        self.held = [one for one in self.held if one not in known]
        return [(key, _unanswered(each, not self.answers and each.fate == "unclear")) for key, each in known]

    def given_up(self, model: str, tried: bool) -> ApiError | None:
        """Why an API is given up. tried: whether the call that nobody refuses has come back."""
        if self.failures >= BREAKER:
            why = f"{self.failures} calls failed in a row, the last: {self.last}; run again later"
        elif tried and self.is_in_doubt:
            why = f"{len(self.held)} calls refused and none answered, the last: {self.held[-1][1].reason}"
        else:
            return None
        return ApiError(f"api:{model}: {why}")


def _unanswered(trouble: Trouble, is_open: bool) -> Generation:
    return Generation("", 0, None, trouble.reason, is_open=is_open)
