"""Results that could not be written to disk: said once for each, with what to do."""

from __future__ import annotations

from dashboard.session.jobs import store
from dashboard.session.notices import add_notice, drop_notices
from dashboard.session.predictions import predictions
from dashboard.session.state import session


def note_unsaved() -> None:
    """Add a notice for a run or prediction that was not saved since this session last looked.

    It goes away when something of its kind could be saved again.
    """
    for kind, kept in (("run", store()), ("prediction", predictions())):
        topic, unsaved = f"unsaved {kind}", session().unsaved
        if kept.problem is None:
            drop_notices(topic)
        elif kept.unsaved > unsaved.get(kind, 0):
            add_notice(kept.problem, "error", topic=topic)
        unsaved[kind] = kept.unsaved
