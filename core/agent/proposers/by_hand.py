"""The proposer `human`: has no ideas of its own. What a person changes in train.py becomes an experiment in any case.

The campaign takes a hand edit before it asks a proposer, so this one is asked only when there is none left to try: it
says what to edit and how to go on, and the night ends after its last claim.
"""

from __future__ import annotations

from ...contracts import Proposal, ResearchContext
from .calls import Setting


class HumanProposer:
    """Waits for nobody."""

    name = "human"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.why_nothing = ""
        """Why the last `propose` gave nothing, in words for the end of the night."""

    def propose(self, context: ResearchContext) -> Proposal | None:
        """None, and a line for the person about what to do."""
        place = self._setting.folder.parent / "train.py"
        self._setting.tell(
            f"there is no new edit to try: change {place}, one idea at a time, and give the same command again; "
            f"the current code of the search is revision {context.revision[:8]} (`slm-ar adopt --current`)"
        )
        self.why_nothing = "there was no new edit of train.py to try"
        return None
