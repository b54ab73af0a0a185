# The Python interface: what `from repro import …` finds. repro/__init__.py reads it; so do editors and type checkers.

from repro.errors import RunError as RunError
from repro.errors import UsageError as UsageError
from repro.nets import create as create
from repro.protocol import Scoring as Scoring
from repro.reading.notebook import load as load
from repro.reading.query import runs as runs
from repro.recipes.pruning import Pruning as Pruning
from repro.recipes.training import Training as Training
from repro.stages import Machine as Machine
from repro.stages import barrier as barrier
from repro.stages import branch as branch
from repro.stages import gradients as gradients
from repro.stages import imp as imp
from repro.stages import pretrain as pretrain
from repro.stages import score as score
from repro.stages import select as select
from repro.stages import warmup as warmup
from repro.store import read as read
