"""The reproduction ledger: what papers claim, what we would accept, what we measured, the verdict.

Two things are stored, and everything else is computed from them.

- `claims.yaml`: one row a claim, with a criterion that is committed before the run it judges.
- `runs/*.json`: one file a run, written by `store` and never by hand.

The folder that holds both is found in this order: the variable `NTKLAB_LEDGER`, `book/ledger` of
the checkout that the package lies in, the copy inside an installed wheel (read only).

Reading, for tables and prose::

    claims(paper=None, chapter=None, experiment=None) -> tuple[Claim, ...]   order of the file
    claim(id) -> Claim
    runs(experiment=None, size=None) -> tuple[Run, ...]          oldest first, dirty ones included
    verdict(id, size="book") -> Verdict
    verdicts(size=None, paper=None, chapter=None) -> tuple[Verdict, ...]     None: book and paper
    value(id, name, size="book") -> Value(mean, low, high, per_seed, seeds, run)
    rows(chapter=None, paper=None, id=None, size=None) -> list[dict]         plain text, for tables

Writing, for `python -m ntklab run`::

    store(run) -> Path          refuses size quick, NaN, a value that a criterion needs and lacks
    adopt(made, to) -> list     records of another machine; none is overwritten
    measured_peak(dtype) -> operations a second of a matrix product on this device

Auditing, for the tests::

    late_criteria(checkout, runs()) -> list[str]     records that no committed criterion preceded

Rules that the code holds, so that nobody has to remember them:

- The verdict is *reproduced* when every predicate of the criterion holds, *partly* when some do,
  *not reproduced* when none does, *not run* when no run counts.
- A run counts for a claim when it is clean (not `dirty`) and carries the fingerprint of the
  criterion as it stands now. So a criterion that was changed after a run is not judged by it.
- Of several runs that count, the newest by its time (UTC) does. None is ever overwritten: the name
  of a file holds experiment, size, commit and time, and old files stay visible.
- A tree is dirty when `git status` lists anything but run records (`book/ledger/runs/*.json`),
  so that several experiments can run one after another before one commit. Without `.git` the
  variable `NTKLAB_COMMIT` names the commit; without both a run is dirty.
"""

from ntklab.ledger.history import late_criteria as late_criteria
from ntklab.ledger.judging import Outcome as Outcome
from ntklab.ledger.judging import Value as Value
from ntklab.ledger.judging import Verdict as Verdict
from ntklab.ledger.judging import judge as judge
from ntklab.ledger.judging import rows as rows
from ntklab.ledger.judging import value as value
from ntklab.ledger.judging import verdict as verdict
from ntklab.ledger.judging import verdicts as verdicts
from ntklab.ledger.provenance import Commit as Commit
from ntklab.ledger.provenance import commit_of_code as commit_of_code
from ntklab.ledger.provenance import machine as machine
from ntklab.ledger.provenance import measured_peak as measured_peak
from ntklab.ledger.provenance import peak_memory_mib as peak_memory_mib
from ntklab.ledger.records import Run as Run
from ntklab.ledger.records import adopt as adopt
from ntklab.ledger.records import criteria_of as criteria_of
from ntklab.ledger.records import now as now
from ntklab.ledger.records import runs as runs
from ntklab.ledger.records import store as store
from ntklab.ledger.schema import SIZES as SIZES
from ntklab.ledger.schema import Claim as Claim
from ntklab.ledger.schema import LedgerError as LedgerError
from ntklab.ledger.schema import Predicate as Predicate
from ntklab.ledger.schema import claim as claim
from ntklab.ledger.schema import claims as claims
from ntklab.ledger.schema import folder as folder
