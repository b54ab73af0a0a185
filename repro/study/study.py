"""What a figure command is about: protocols, a results folder, and what each figure needs, shows and claims."""

import os
import shlex
from pathlib import Path

import paper_figures
from paper_figures import figures_at, needed
from repro import store
from repro.errors import UsageError
from repro.plan.items import resize
from repro.plan.steps import last
from repro.protocol import OWN, Protocol, datasets_at
from repro.study import own_figure
from repro.study.collect import collect, finished

UNSPOILED = ("permute-scores", "swap-easy-hard")
"""Controls that are judged beside the figure without a control, where its runs are finished."""


class Study:
    """One figure (or ``all``) at a scale, on some data sets; or a user's own figure.

    Arguments:
        name: a figure, 'all', or the path of a user's Python file (`repro.study.own_figure`).
        control: of Figure 2, an experiment that has to fail.
        scale: None is 'demo'. A user's figure has no scale.
        datasets: only these; none means all of the scale, or of the file.
        seed, replicates, levels: None is the protocol's.
        results: folder of artifacts; None is ``results/<scale>``, or ``results/<stem of the file>`` of a user's figure.
        read: what the user's file defines, if it was run before; None runs it.

    ``own`` is the user's figure, or None. ``claims`` are the figures whose claims are judged.
    Raises UsageError for an unknown figure, control or data set.
    """

    def __init__(
        self,
        name,
        scale=None,
        datasets=(),
        control=None,
        seed=None,
        replicates=None,
        levels=None,
        results=None,
        *,
        read=None,
    ):
        self.own = (read or own_figure.read(name)) if own_figure.is_own(name) else None
        if self.own and (control or scale not in (None, OWN)):
            option = f"--control {control}" if control else f"--scale {scale}"
            raise UsageError(f"{name} is a figure of your own, and {option} is for the paper's: leave it out")
        scale = OWN if self.own else scale or "demo"
        known = self.own.protocols if self.own else datasets_at(scale)
        if unknown := set(datasets) - {p.dataset for p in known}:
            names = ", ".join(p.dataset for p in known)
            where = name if self.own else f"{scale} scale"
            raise UsageError(f"{where} has no data set {', '.join(sorted(unknown))}: choose among {names}")
        chosen = [
            resize(p, replicates=replicates, levels=levels, seed=seed)
            for p in known
            if not datasets or p.dataset in datasets
        ]
        self.name, self.control = self.own.name if self.own else name, control
        self.figures = figures_at(scale) if name == "all" else (self.name,)
        self.claims = self.own.claims if self.own else self.figures
        if name in paper_figures.NAMES and name not in figures_at(scale):
            raise UsageError(f"there is no {name} at {scale} scale: choose {', '.join(figures_at(scale))} or all")
        declared = {
            (f, p): self.own.needed(p) if self.own else needed(f, p, control) for f in self.figures for p in chosen
        }
        self.protocols = [p for p in chosen if any(declared[f, p] for f in self.figures)]
        if not self.protocols:
            raise UsageError(f"the paper has no {name} on {', '.join(p.dataset for p in chosen)}: leave --dataset out")
        self._declared = declared
        self.asked = {"name": str(name), "scale": scale, "datasets": list(datasets), "control": control, "seed": seed}
        self.asked |= {"replicates": replicates, "levels": levels}
        """The arguments without the folder, in JSON types: ``Study(**asked, results=…)`` is the same study."""
        self.results = results or Path("results") / (self.own.name if self.own else scale)
        try:
            str(self.results).encode()
        except UnicodeEncodeError:  # tables hold paths
            raise UsageError(f"--results {os.fsencode(self.results)!r} is not UTF-8: choose another folder") from None
        if self.results.exists() and not self.results.is_dir():
            raise UsageError(f"--results {self.results} is a file: give a folder")

    def changed(self, **asked) -> "Study":
        """The study with other arguments. A user's file is not run again."""
        return Study(**{**self.asked, **asked}, results=self.results, read=self.own)

    def items(self, *figures: str) -> list:
        """The items of these figures (default: all of the study) on all data sets, each once."""
        found = (item for (f, _), items in self._declared.items() if f in (figures or self.figures) for item in items)
        return list(dict.fromkeys(found))

    def protocols_of(self, figure: str) -> list[Protocol]:
        return [p for p in self.protocols if self._declared[figure, p]]

    @property
    def how(self) -> str:
        """The command that makes its artifacts, for messages."""
        if self.own:
            return f"`repro plan {self.own.path} --make rules.mk` and `make -f rules.mk`"
        asked = self.asked | {"datasets": " ".join(self.asked["datasets"])}
        words = {name.upper(): asked[name] for name in ("scale", "datasets", "control", "seed", "replicates", "levels")}
        given = [f"{name}={shlex.quote(str(value))}" for name, value in words.items() if value not in (None, "")]
        usual = asked["scale"] if asked["seed"] is None else f"{asked['scale']}-seed{asked['seed']}"
        if self.results != Path("results") / usual:  # make's own
            given.append(f"RESULTS={shlex.quote(str(self.results))}")
        return f"`{' '.join(['make', 'figures' if self.name == 'all' else self.name, *given])}`"

    @property
    def drawn(self) -> list[str]:
        """The figures that exist on at least one of the data sets asked for."""
        return [figure for figure in self.figures if self.protocols_of(figure)]

    def stem(self, name: str) -> Path:
        """Path, without suffix, of the files of a figure."""
        return self.results / (f"{name}-{self.control}" if self.control else name)

    @property
    def verdicts_stem(self) -> Path:
        """Path, without suffix, of the verdicts."""
        stem = self.stem("paper" if self.name == "all" else self.name)
        return stem.with_name(f"{stem.name}-verdicts")

    def draw(self, figure: str, evidence=None):
        """(matplotlib figure, table of what it plots) from the artifacts, or from some of their evidence.

        Raises UsageError as `collect` does.
        """
        evidence = collect(self.items(figure), self.results) if evidence is None else evidence
        if self.own:
            return self.own.draw(evidence, self.protocols_of(figure))
        return paper_figures.draw(figure, evidence, self.protocols_of(figure), self.control)

    def finished(self) -> list:
        """The items whose artifact exists."""
        return finished(self.items(), self.results)

    def lacking(self) -> list[Path]:
        """The items' own artifacts that are missing or incomplete."""
        with store.Index() as look:
            return [step.target for step in last(self.items(), self.results) if step.lacks(look)]

    def unspoiled(self) -> "Study | None":
        """The study without its control, if the control is judged beside it and all its artifacts exist."""
        if self.control not in UNSPOILED:
            return None
        plain = self.changed(control=None)
        return plain if len(plain.finished()) == len(plain.items()) else None

    def judge(self):
        """The `repro.verify.report.Judgement` on the artifacts that exist; if any is missing, its status is 3."""
        from repro.verify.judge import judge

        unspoiled = (plain := self.unspoiled()) and collect(plain.items(), plain.results)
        evidence = collect(self.finished(), self.results)
        about = dict(figures=self.claims, control=self.control, unspoiled=unspoiled, complete=not self.lacking())
        return judge(evidence, self.protocols, **about)
